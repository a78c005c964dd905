"""The feature program: a pipeline's features as data, stored in the bundle and named by its digest.

Here are the program, the rules that a whole one must keep, and the names of what it looks up.
Three back-ends compute it, all with equal results: `bundle.features.polars` over frames,
`bundle.features.row` for one request, `bundle.features.numpy` for a request with many rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import msgspec

from bundle.features.checking import NUMBERS, Types, article, show
from bundle.features.expression import (
    Category,
    Column,
    Expression,
    Feature,
    Join,
    Rolling,
    walk,
)
from bundle.features.operators import Type

if TYPE_CHECKING:
    import numpy as np
    import polars as pl

FORMAT = 1
VOCABULARY_LIMIT = 255

EVENT_TIME = "event_time"
"""The column that says when a row's fact happened; every row has it."""

Kind = Literal["string", "float", "integer", "boolean", "datetime"]
"""What a column of a source or of a request holds."""

TYPE_OF_KIND: dict[Kind, Type] = {
    "string": "text",
    "float": "number",
    "integer": "number",
    "boolean": "boolean",
    "datetime": "datetime",
}

# The greatest finite double, and its negative.
LOWEST, HIGHEST = -1.7976931348623157e308, 1.7976931348623157e308
# A model's matrix is float32: a feature that does not fit is missing.
FLOAT32_MAX = 3.4028234663852886e38
# The time zone databases of Python and Polars need not agree beyond these years. A request outside
# of them is refused; such a moment from elsewhere is missing.
EARLIEST, LATEST = datetime(1900, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)


class RequestColumn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an application sends in one column.

    A column that is not `logged` is never written to the prediction log.
    """

    kind: Kind
    nullable: bool = False
    logged: bool = True


class Lookup(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Values found for a request in a table of the online snapshot.

    In a batch they are joined, point in time.

    `name` is the lookup, `table` the table it reads. `keys` are columns of the request, `columns`
    the columns of `source` that they must equal; without any, one value holds for all requests.
    `kinds` are those of `values`. A row of a "latest" table does not count when it was known more
    than `within` seconds before the prediction.
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
        """Name of the column with a value of this lookup in the wide frame of a batch."""
        return f"{self.name}: {value}"


class FeatureProgram(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Features of a pipeline with all that is needed to compute them.

    A prediction is made `lead_seconds` before the request's `event_time`. Aggregates are refreshed
    `refresh_seconds` after each local midnight. `vocabularies` (feature -> texts in canonical
    order) exist after `fit`: the code of a text is its position plus one, 0 is everything unseen.
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
        """Features that are not logged because they read an unlogged column.

        A column is also read as the key of a lookup: the value found would tell it.
        """
        return frozenset(
            feature.name for feature in self.features if self._reads(feature) & self.unlogged
        )

    def _reads(self, feature: Feature) -> set[str]:
        columns: set[str] = set()
        for node in walk(feature.expression):
            if isinstance(node, Column):
                columns.add(node.name)
            elif isinstance(node, (Join, Rolling)):
                columns.update(self.lookup(node).keys)
        return columns

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

        known = [lookup.name for lookup in self.lookups]
        raise ValueError(
            f"feature program of {self.pipeline!r} has no lookup {name!r}; it has {known}"
        )

    def types(self) -> Types:
        """Types of the trees of this program."""

        def looked_up(node: Join | Rolling) -> Type:
            lookup, name = self.lookup(node), value_name(node)
            if name not in lookup.values:
                raise ValueError(
                    f"lookup {lookup.name!r} has no value {name!r}; "
                    f"it has {', '.join(lookup.values)}"
                )
            return TYPE_OF_KIND[lookup.kinds[lookup.values.index(name)]]

        columns = {name: TYPE_OF_KIND[column.kind] for name, column in self.request.items()}
        return Types(columns, looked_up)

    def check(self) -> None:
        """Raises ValueError where a tree mixes types or a lookup is incomplete, naming the part."""
        if len(set(self.names)) != len(self.names):
            raise ValueError(
                f"feature program of {self.pipeline!r} names a feature twice: "
                f"{', '.join(self.names)}"
            )

        event = self.request.get(EVENT_TIME)
        if (self.lookups and event is None) or (event is not None and event.kind != "datetime"):
            raise ValueError(
                f"feature program of {self.pipeline!r} needs {EVENT_TIME!r} as a datetime "
                "of the request"
            )

        for lookup in self.lookups:
            self._check_lookup(lookup)

        types = self.types()
        for feature in self.features:
            try:
                _check_feature(feature.expression, types)
            except ValueError as error:
                raise ValueError(f"feature {feature.name!r}: {error}") from error

    def _check_lookup(self, lookup: Lookup) -> None:
        if len(lookup.values) != len(lookup.kinds) or len(lookup.keys) != len(lookup.columns):
            raise ValueError(
                f"lookup {lookup.name!r} is incomplete: values and kinds, keys and columns "
                "must pair up"
            )

        for key in lookup.keys:
            if key not in self.request:
                raise ValueError(
                    f"lookup {lookup.name!r} has key {key!r}, which is not a request column; "
                    f"those are {', '.join(self.request)}"
                )
            if self.request[key].kind == "float":
                raise ValueError(
                    f"lookup {lookup.name!r} has key {key!r}, a float; equality of floats is no "
                    "key, use text or an integer"
                )

    def encode(self) -> bytes:
        return msgspec.json.encode(self, order="deterministic")

    @staticmethod
    def decode(content: bytes) -> FeatureProgram:
        """Read a program back. Raises ValueError for anything but a complete, well-typed one."""
        try:
            program = msgspec.json.decode(content, type=FeatureProgram)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError(f"not a feature program: {error}") from error

        if program.version != FORMAT:
            raise ValueError(
                f"feature program of format {program.version}; this release reads format {FORMAT}, "
                "so train or release again"
            )
        program.check()
        return program

    def fit(self, frame: pl.DataFrame) -> FeatureProgram:
        """The program with vocabularies learned from training rows of the feature table.

        A vocabulary keeps the 255 most frequent texts (ties in text order), sorted by code point;
        rows may come in any order.
        """
        vocabularies = {
            name: _vocabulary(frame.get_column(name))
            for name, categorical in zip(self.names, self.categorical, strict=True)
            if categorical
        }
        return msgspec.structs.replace(self, vocabularies=vocabularies)

    def matrix(self, frame: pl.DataFrame) -> np.ndarray:
        """Model input from rows of the feature table: float32 (n, k), one column per feature.

        Categories are codes, nulls are NaN.
        """
        import numpy as np
        import polars as pl

        self.require_fitted()
        matrix = np.empty((frame.height, len(self.features)), dtype=np.float32)
        for index, (name, categorical) in enumerate(zip(self.names, self.categorical, strict=True)):
            column = frame.get_column(name)
            if categorical:
                column = _codes(column, self.vocabularies[name])
            # Adding zero makes 0.0 of -0.0, as for a single row: bytes do not depend on the sign
            # of nothing.
            matrix[:, index] = column.cast(pl.Float64).to_numpy() + 0.0
        return matrix

    def require_fitted(self) -> None:
        """Raises ValueError for a program whose vocabularies were not learned yet."""
        if not self.fitted:
            raise ValueError(
                f"feature program of {self.pipeline!r} has no vocabularies yet; "
                "call fit() with training rows first"
            )


def _check_feature(root: Expression, types: Types) -> None:
    found = types.of(root)
    for part in walk(root)[1:]:
        if isinstance(part, Category):
            raise ValueError(
                f"{show(part)} stands inside another expression; a category is a feature of its own"
            )

    if not isinstance(root, Category) and found not in NUMBERS:
        text = found == "text"
        way = "wrap it as category(...)" if text else "take a part of it, such as .hour()"
        raise ValueError(
            f"{show(root)} is {article(found)}, and a feature is a number or a category; {way}"
        )


def _vocabulary(column: pl.Series) -> tuple[str, ...]:
    import polars as pl

    counts = (
        column.cast(pl.String).rename("text").to_frame().drop_nulls().lazy().group_by("text").len()
    )
    kept = counts.sort(["len", "text"], descending=[True, False]).head(VOCABULARY_LIMIT).collect()
    return tuple(sorted(kept["text"].to_list()))


def _codes(column: pl.Series, words: tuple[str, ...]) -> pl.Series:
    """The place of each text in a vocabulary, from 1; 0 where it is not in it, null where null."""
    import polars as pl

    texts = column.cast(pl.String)
    codes = range(1, len(words) + 1)
    known = (
        texts.replace_strict(list(words), codes, default=0.0, return_dtype=pl.Float64)
        if words
        else pl.zeros(len(texts), dtype=pl.Float64, eager=True)
    )
    return pl.select(pl.when(texts.is_not_null()).then(known)).to_series()


def lookup_name(node: Join | Rolling) -> str:
    """Name of the lookup of a resolved node.

    A resolved join names its request columns in `on`, a resolved aggregate its source.
    """
    if isinstance(node, Rolling):
        return aggregate_table(node.source, node.by)
    within = "" if node.within is None else f" within {node.within}s"
    return f"{node.source} on {', '.join(node.on)}{within}"


def latest_table(source: str, columns: tuple[str, ...]) -> str:
    return f"{source} by {', '.join(columns)}"


def aggregate_table(source: str, by: tuple[str, ...]) -> str:
    return f"{source} aggregated" + (f" by {', '.join(by)}" if by else "")


def value_name(node: Join | Rolling) -> str:
    """Name of a node's value in its table: a column, or an aggregate with a digest.

    The digest is that of what is aggregated, so that two declarations with another meaning never
    share a name.
    """
    return aggregate_name(node) if isinstance(node, Rolling) else node.column


def aggregate_name(node: Rolling) -> str:
    digest = hashlib.sha256(msgspec.json.encode(node.value, order="deterministic")).hexdigest()
    return f"{node.function} {digest[:12]} {node.days}d"
