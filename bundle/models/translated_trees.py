"""The trees of scikit-learn's ensembles as XGBoost's: walked and explained like those."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, chain
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import xgboost
    from numpy.typing import NDArray

    Array = NDArray[np.float64]
    Places = NDArray[np.int64]

# Codes of categories that a feature program gives: the 255 texts of a vocabulary, and 0 for others.
CODES = range(256)
# The greatest float32: a limit below which every number is.
GREATEST = 3.4028234663852886e38
_XGBOOST = (3, 2, 0)  # the release whose model format is written


class _Tree(NamedTuple):
    """A tree's nodes, root first: children (-1 for leaves), the feature asked, where values go.

    `threshold`: values up to it go left; `codes` lists those that go right at categorical nodes.
    `value` is what a leaf adds, `cover` how many training rows came by, `gain` what a split
    brought.
    """

    left: Places
    right: Places
    feature: Places
    threshold: Array
    missing_left: NDArray[np.bool_]
    value: Array
    cover: Array
    gain: Array
    codes: Mapping[int, list[int]]


def booster(ensemble: Any, names: Sequence[str]) -> xgboost.Booster:
    """The trees of a forest or of gradient boosting as XGBoost's.

    Their raw sums are those of the ensemble, added in float32. Raises ValueError for an ensemble of
    another kind, or a tree that is none.
    """
    import msgspec
    import xgboost

    kind = type(ensemble).__name__
    categorical: set[int] = set()
    if kind == "RandomForestClassifier":
        trees = [_of_forest(each.tree_, len(ensemble.estimators_)) for each in ensemble.estimators_]
    elif kind == "HistGradientBoostingClassifier":
        trees = _of_boosting(ensemble)
        categorical = set(_categorical(ensemble).nonzero()[0].tolist())
    else:
        raise ValueError(
            f"trees of a {kind} are not known;"
            " train a random forest or histogram-based gradient boosting"
        )

    document = msgspec.json.encode(_document(trees, names, categorical))
    found = xgboost.Booster(model_file=bytearray(document))
    found.set_param({"nthread": 1})
    return found


def _document(
    trees: Sequence[_Tree], names: Sequence[str], categorical: set[int]
) -> dict[str, Any]:
    """A model in XGBoost's JSON."""
    width = len(names)
    return {
        "learner": {
            "attributes": {},
            "feature_names": list(names),
            "feature_types": ["c" if place in categorical else "q" for place in range(width)],
            "gradient_booster": {
                "model": {
                    "cats": {"enc": [], "feature_segments": [], "sorted_idx": []},
                    "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(len(trees))},
                    "iteration_indptr": list(range(len(trees) + 1)),
                    "tree_info": [0] * len(trees),
                    "trees": [_written(tree, index, width) for index, tree in enumerate(trees)],
                },
                "name": "gbtree",
            },
            # The log odds of one half are 0: nothing is added to the trees.
            "learner_model_param": {
                "base_score": "[5E-1]",
                "boost_from_average": "0",
                "num_class": "0",
                "num_feature": str(width),
                "num_target": "1",
            },
            "objective": {"name": "binary:logistic", "reg_loss_param": {"scale_pos_weight": "1"}},
        },
        "version": list(_XGBOOST),
    }


def _written(tree: _Tree, index: int, width: int) -> dict[str, Any]:
    """A tree in XGBoost's JSON."""
    import numpy as np

    order, lefts, parents = _laid(tree, index)
    inner = lefts >= 0
    feature, value = tree.feature[order], tree.value[order]
    if not ((feature >= 0) & (feature < width))[inner].all():
        raise ValueError(f"tree {index} of the estimator asks for a feature that it does not read")
    limit = _limits(tree.threshold[order])
    return {
        "base_weights": value.tolist(),
        **_category_lists(tree, order),
        "default_left": (tree.missing_left[order] & inner).astype(int).tolist(),
        "id": index,
        "left_children": lefts.tolist(),
        "loss_changes": np.where(inner, tree.gain[order], 0.0).tolist(),
        "parents": parents.tolist(),
        "right_children": np.where(inner, lefts + 1, -1).tolist(),
        "split_conditions": np.where(inner, limit, value.astype(np.float32)).astype(float).tolist(),
        "split_indices": np.where(inner, feature, 0).tolist(),
        "sum_hessian": tree.cover[order].tolist(),
        "tree_param": {
            "num_deleted": "0",
            "num_feature": str(width),
            "num_nodes": str(len(order)),
            "size_leaf_vector": "1",
        },
    }


def _limits(threshold: Array) -> NDArray[np.float32]:
    """Limits below which values go left, for thresholds up to which they do.

    They are the next float32 above the thresholds.
    """
    import numpy as np

    with np.errstate(over="ignore"):
        near = np.clip(threshold, -GREATEST, GREATEST).astype(np.float32)
        limit = np.where(near > threshold, near, np.nextafter(near, np.float32(np.inf)))
    return np.clip(limit, -GREATEST, GREATEST)


def _category_lists(tree: _Tree, order: Places) -> dict[str, list[int]]:
    """The codes of all categorical nodes one after the other, and where those of each begin."""
    places = order.tolist()
    codes = {place: tree.codes[node] for place, node in enumerate(places) if node in tree.codes}
    sizes = [len(held) for held in codes.values()]
    return {
        "categories": list(chain.from_iterable(codes.values())),
        "categories_nodes": list(codes),
        "categories_segments": list(accumulate(sizes, initial=0))[:-1],
        "categories_sizes": sizes,
        "split_type": [int(place in codes) for place in range(len(places))],
    }


def _laid(tree: _Tree, index: int) -> tuple[Places, Places, Places]:
    """A tree's nodes from its root down, siblings side by side, as XGBoost walks them.

    Returns their former places, where the left children stand now (-1 for leaves), and the parents.
    Raises ValueError for nodes that are no tree.
    """
    import numpy as np

    count, laid = len(tree.left), 1
    level = np.zeros(1, dtype=np.int64)
    order, lefts, parents = [level], [], [np.array([2**31 - 1])]
    while len(level):
        inner = tree.left[level] >= 0
        lefts.append(np.where(inner, laid + 2 * (np.cumsum(inner) - 1), -1))
        parents.append(np.repeat(laid - len(level) + np.flatnonzero(inner), 2))
        level = np.column_stack([tree.left[level], tree.right[level]])[inner].ravel()
        order.append(level)
        laid += len(level)
        if laid > count or not ((level > 0) & (level < count)).all():
            break

    found = np.concatenate(order)
    if not np.array_equal(np.sort(found), np.arange(count)):
        raise ValueError(
            f"tree {index} of the estimator is none: its nodes do not follow from its root"
        )
    return found, np.concatenate(lefts), np.concatenate(parents)


def _of_forest(tree: Any, trees: int) -> _Tree:
    """A tree of a forest of `trees`: a leaf adds its share of the class 1 over their number."""
    import numpy as np

    cover, share = tree.weighted_n_node_samples, tree.value[:, 0, :]
    impurity = cover * tree.impurity
    # Whether the children's places are sound is checked later.
    left = impurity.take(tree.children_left, mode="clip")
    right = impurity.take(tree.children_right, mode="clip")
    return _Tree(
        left=tree.children_left,
        right=tree.children_right,
        feature=tree.feature,
        threshold=tree.threshold,
        missing_left=np.asarray(tree.missing_go_to_left, dtype=bool),
        value=share[:, 1] / share.sum(axis=1) / trees,
        cover=cover,
        gain=impurity - left - right,
        codes={},
    )


def _categorical(ensemble: Any) -> NDArray[np.bool_]:
    """Which features of histogram-based gradient boosting are categories, (k,)."""
    import numpy as np

    if ensemble.is_categorical_ is None:
        return np.zeros(ensemble.n_features_in_, dtype=bool)
    return np.asarray(ensemble.is_categorical_, dtype=bool)


# scikit-learn has no public way to the trees of histogram-based gradient boosting, to what they
# start with, and to the codes that it gives categories: hence `_predictors` and the fields of their
# nodes, `_baseline_prediction` and `_preprocessor`. Estimators of another release are not loaded
# (`skops_files`), and a bundle's golden rows hold the translation to the estimator.
def _of_boosting(ensemble: Any) -> list[_Tree]:
    """The trees of histogram-based gradient boosting.

    The first one's leaves add what the ensemble starts with, too.
    """
    import numpy as np

    categorical = _categorical(ensemble)
    # Categories are encoded anew and come first.
    order = np.concatenate([np.flatnonzero(categorical), np.flatnonzero(~categorical)])
    encoded = _encoded(ensemble, categorical)
    start = float(ensemble._baseline_prediction.item())
    trees = []
    for index, (predictor,) in enumerate(ensemble._predictors):
        nodes = predictor.nodes
        leaf = nodes["is_leaf"].astype(bool)
        feature = order[nodes["feature_idx"]]
        trees.append(
            _Tree(
                left=np.where(leaf, -1, nodes["left"].astype(np.int64)),
                right=np.where(leaf, -1, nodes["right"].astype(np.int64)),
                feature=feature,
                threshold=nodes["num_threshold"],
                missing_left=nodes["missing_go_to_left"].astype(bool),
                value=nodes["value"] + (0.0 if index else start),
                cover=nodes["count"].astype(np.float64),
                gain=nodes["gain"],
                codes=_codes(predictor, feature, encoded),
            )
        )
    return trees


def _encoded(ensemble: Any, categorical: NDArray[np.bool_]) -> dict[int, dict[float, int]]:
    """For each categorical feature the places that scikit-learn gives its codes."""
    if not categorical.any():
        return {}
    categories = ensemble._preprocessor.named_transformers_["encoder"].categories_
    columns = categorical.nonzero()[0].tolist()
    return {
        column: {float(code): place for place, code in enumerate(codes) if code == code}
        for column, codes in zip(columns, categories, strict=True)
    }


def _codes(
    predictor: Any, feature: Places, encoded: Mapping[int, Mapping[float, int]]
) -> dict[int, list[int]]:
    """The codes that go right at each categorical node of a tree."""
    import numpy as np

    nodes = predictor.nodes
    categorical = nodes["is_categorical"].astype(bool) & ~nodes["is_leaf"].astype(bool)
    found = {}
    for node in np.flatnonzero(categorical).tolist():
        bits = predictor.raw_left_cat_bitsets[nodes["bitset_idx"][node]]
        left = np.unpackbits(bits.view(np.uint8), bitorder="little")
        places = encoded[int(feature[node])]
        # A code that has no place goes where missing values do.
        right = np.full(len(CODES), not nodes["missing_go_to_left"][node])
        for code in CODES:
            if code in places:
                right[code] = not left[places[code]]
        found[node] = np.flatnonzero(right).tolist()
    return found
