"""The feature program: a pipeline's features as data, stored in the bundle and named by its digest.

`compile_batch` turns it into Polars expressions for training, `compile_row` into plain Python for one request and `compile_columns` into
NumPy for one with many rows; all compute exactly the same (see `bundle.features.expression` for what the operators mean).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import msgspec

from bundle.features.expression import Category, Column, Expression, Feature, Join, Rolling, walk

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

    from bundle.features.numpy import ColumnFunction
    from bundle.features.row import RowFunction

FORMAT = 1
VOCABULARY_LIMIT = 255
EVENT_TIME = "event_time"
Kind = Literal["string", "float", "integer", "boolean", "datetime"]


class RequestColumn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an application sends in one column. One that is not `logged` is never written to the prediction log."""

    kind: Kind
    nullable: bool = False
    logged: bool = True


class Lookup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Values found for a request in a table of the online snapshot (or, in a batch, joined point in time).

    `name` is the lookup, `table` the table it reads; `keys` are columns of the request, `columns` the columns of
    `source` that they must equal. `kinds` are those of `values`. A row of a "latest" table does not count when it was
    known more than `within` seconds before the prediction.
    """

    name: str
    table: str
    kind: Literal["latest", "aggregate"]
    source: str
    keys: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[str, ...]
    kinds: tuple[Kind, ...]
    within: int | None = None

    def wide(self, value: str) -> str:
        """Name of the column that holds a value of this lookup in the wide frame that `compile_batch` reads."""
        return f"{self.name}: {value}"


class FeatureProgram(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Features of a pipeline with all that is needed to compute them from a request and an online snapshot.

    `lead_seconds` before a request's `event_time` its prediction is made; aggregates are refreshed `refresh_seconds`
    after each local midnight. `vocabularies` (feature -> texts in canonical order) exist after `fit`: the code of a text
    is its position plus one, 0 is everything unseen.
    """

    pipeline: str
    timezone: str
    entity: str
    lead_seconds: int
    refresh_seconds: int
    request: dict[str, RequestColumn]
    features: tuple[Feature, ...]
    lookups: tuple[Lookup, ...] = ()
    vocabularies: dict[str, tuple[str, ...]] = {}
    version: int = FORMAT

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the features: the columns of the model's matrix, in order."""
        return tuple(feature.name for feature in self.features)

    @property
    def categorical(self) -> tuple[bool, ...]:
        return tuple(isinstance(feature.expression, Category) for feature in self.features)

    @property
    def fitted(self) -> bool:
        return all(
            name in self.vocabularies
            for name, categorical in zip(self.names, self.categorical, strict=True)
            if categorical
        )

    @property
    def aggregates(self) -> tuple[Rolling, ...]:
        """All rolling aggregates that features use, each once."""
        return tuple(
            {
                aggregate_name(node) + lookup_name(node): node
                for node in self.nodes()
                if isinstance(node, Rolling)
            }.values()
        )

    @property
    def unlogged(self) -> frozenset[str]:
        """Request columns that are never written to the prediction log."""
        return frozenset(name for name, column in self.request.items() if not column.logged)

    @property
    def withheld(self) -> frozenset[str]:
        """Features that are not logged because they read an unlogged column, be it as the key of a lookup: their values would
        tell it."""
        return frozenset(
            feature.name for feature in self.features if self._reads(feature) & self.unlogged
        )

    def _reads(self, feature: Feature) -> set[str]:
        nodes = walk(feature.expression)
        keys = {
            key
            for node in nodes
            if isinstance(node, (Join, Rolling))
            for key in self.lookup(node).keys
        }
        return keys | {node.name for node in nodes if isinstance(node, Column)}

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON."""
        return hashlib.sha256(self.encode()).hexdigest()

    def nodes(self) -> Iterator[Expression]:
        for feature in self.features:
            yield from walk(feature.expression)

    def lookup(self, node: Join | Rolling) -> Lookup:
        """The lookup that finds a node's value."""
        name = lookup_name(node)
        for lookup in self.lookups:
            if lookup.name == name:
                return lookup
        raise ValueError(
            f"feature program of {self.pipeline!r} has no lookup {name!r}; it has {[lookup.name for lookup in self.lookups]}"
        )

    def encode(self) -> bytes:
        return msgspec.json.encode(self, order="deterministic")

    @staticmethod
    def decode(content: bytes) -> FeatureProgram:
        """Read a program back. Raises ValueError for anything that is no complete, well-typed program of this format."""
        from bundle.features.checking import check_types

        try:
            program = msgspec.json.decode(content, type=FeatureProgram)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError(f"not a feature program: {error}") from error
        if program.version != FORMAT:
            raise ValueError(
                f"feature program of format {program.version}; this release reads format {FORMAT}, so train or release again"
            )
        check_types(program)
        return program

    def fit(self, frame: pl.DataFrame) -> FeatureProgram:
        """The program with vocabularies learned from training rows of the feature table.

        A vocabulary keeps the 255 most frequent texts (ties in text order), sorted by code point; rows may come in any order.
        """
        import polars as pl

        vocabularies = {}
        for name, categorical in zip(self.names, self.categorical, strict=True):
            if categorical:
                counts = (
                    frame.lazy()
                    .select(text=pl.col(name).cast(pl.String))
                    .drop_nulls()
                    .group_by("text")
                    .len()
                )
                kept = (
                    counts.sort(["len", "text"], descending=[True, False])
                    .head(VOCABULARY_LIMIT)
                    .collect()
                )
                vocabularies[name] = tuple(sorted(kept["text"].to_list()))
        return msgspec.structs.replace(self, vocabularies=vocabularies)

    def matrix(self, frame: pl.DataFrame) -> np.ndarray:
        """Model input from rows of the feature table: float32, one column per feature; codes for categories, NaN for null."""
        import numpy as np
        import polars as pl

        self.require_fitted()
        matrix = np.empty((frame.height, len(self.features)), dtype=np.float32)
        for index, (name, categorical) in enumerate(zip(self.names, self.categorical, strict=True)):
            column = frame.get_column(name)
            if categorical:
                words = self.vocabularies[name]
                texts = column.cast(pl.String)
                known = texts.replace_strict(list(words), range(1, len(words) + 1), default=0.0, return_dtype=pl.Float64) if words else pl.zeros(
                    frame.height, dtype=pl.Float64, eager=True
                )  # fmt: skip
                column = pl.select(pl.when(texts.is_not_null()).then(known)).to_series()
            # Adding zero makes 0.0 of -0.0, as for a single row: bytes do not depend on the sign of nothing.
            matrix[:, index] = column.cast(pl.Float64).to_numpy() + 0.0
        return matrix

    def require_fitted(self) -> None:
        """Raises ValueError for a program whose vocabularies were not learned yet."""
        if not self.fitted:
            raise ValueError(
                f"feature program of {self.pipeline!r} has no vocabularies yet; call fit() with training rows first"
            )


def lookup_name(node: Join | Rolling) -> str:
    """Name of the lookup of a resolved node (joins name their request columns in `on`, aggregates their source)."""
    if isinstance(node, Rolling):
        return aggregate_table(node.source, node.by)
    return f"{node.source} on {', '.join(node.on)}" + (
        "" if node.within is None else f" within {node.within}s"
    )


def latest_table(source: str, columns: tuple[str, ...]) -> str:
    return f"{source} by {', '.join(columns)}"


def aggregate_table(source: str, by: tuple[str, ...]) -> str:
    return f"{source} aggregated" + (f" by {', '.join(by)}" if by else "")


def value_name(node: Join | Rolling) -> str:
    """Name of a node's value in its table: a column, or an aggregate with the digest of what it aggregates, so that two
    declarations with another meaning never share a name."""
    return aggregate_name(node) if isinstance(node, Rolling) else node.column


def aggregate_name(node: Rolling) -> str:
    digest = hashlib.sha256(msgspec.json.encode(node.value, order="deterministic")).hexdigest()
    return f"{node.function} {digest[:12]} {node.days}d"


def compile_batch(program: FeatureProgram) -> list[pl.Expr]:
    """Polars expressions, one per feature, over a wide frame of request columns, `event_time` and `Lookup.wide` columns.

    Numbers come out as Float64 (null where missing), categories as String.
    """
    from bundle.features.polars import compile_batch

    return compile_batch(program)


def compile_row(program: FeatureProgram) -> RowFunction:
    """A plain Python function from a request and an online snapshot to the model's row. Raises ValueError when not fitted."""
    from bundle.features.row import RowFunction

    return RowFunction(program)


def compile_columns(program: FeatureProgram) -> ColumnFunction:
    """A function from columns of many requests and an online snapshot to the model's rows. Raises ValueError when not fitted."""
    from bundle.features.numpy import ColumnFunction

    return ColumnFunction(program)
