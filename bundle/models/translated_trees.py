"""The trees of scikit-learn's ensembles as XGBoost's: what reads, compiles and explains those takes these, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import xgboost
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

# Codes of categories that a feature program gives: the 255 texts of a vocabulary, and 0 for all others.
CODES = range(256)
# The greatest float32: a limit below which every number is.
GREATEST = 3.4028234663852886e38
_XGBOOST = (3, 2, 0)  # the release whose model format is written


class _Tree(NamedTuple):
    """A tree's nodes, root first: children (-1 for leaves), the feature asked, and where values go.

    `threshold`: values up to it go left; `codes` lists those that go right at categorical nodes. `value` is what a leaf adds, `cover` how many
    training rows came by, `gain` what a split brought."""

    left: NDArray[np.int64]
    right: NDArray[np.int64]
    feature: NDArray[np.int64]
    threshold: Array
    missing_left: NDArray[np.bool_]
    value: Array
    cover: Array
    gain: Array
    codes: Mapping[int, list[int]]


def booster(ensemble: Any, names: Sequence[str]) -> xgboost.Booster:
    """The trees of a forest or of gradient boosting as XGBoost's, whose raw sums are those of the ensemble, added in float32.

    Raises ValueError for an ensemble of another kind, or a tree that is none.
    """
    import msgspec
    import xgboost

    kind = type(ensemble).__name__
    if kind == "RandomForestClassifier":
        trees = [_of_forest(each.tree_, len(ensemble.estimators_)) for each in ensemble.estimators_]
        categorical: set[int] = set()
    elif kind == "HistGradientBoostingClassifier":
        trees = _of_boosting(ensemble)
        categorical = (
            set()
            if ensemble.is_categorical_ is None
            else {int(i) for i in ensemble.is_categorical_.nonzero()[0]}
        )
    else:
        raise ValueError(
            f"trees of a {kind} are not known; train a random forest or histogram-based gradient boosting"
        )
    document = {
        "learner": {
            "attributes": {}, "feature_names": list(names), "feature_types": ["c" if i in categorical else "q" for i in range(len(names))],
            "gradient_booster": {
                "model": {
                    "cats": {"enc": [], "feature_segments": [], "sorted_idx": []},
                    "gbtree_model_param": {"num_parallel_tree": "1", "num_trees": str(len(trees))},
                    "iteration_indptr": list(range(len(trees) + 1)), "tree_info": [0] * len(trees),
                    "trees": [_written(tree, index, len(names)) for index, tree in enumerate(trees)],
                },
                "name": "gbtree",
            },
            # The log odds of one half are 0: nothing is added to the trees.
            "learner_model_param": {"base_score": "[5E-1]", "boost_from_average": "0", "num_class": "0", "num_feature": str(len(names)), "num_target": "1"},
            "objective": {"name": "binary:logistic", "reg_loss_param": {"scale_pos_weight": "1"}},
        },
        "version": list(_XGBOOST),
    }  # fmt: skip
    found = xgboost.Booster(model_file=bytearray(msgspec.json.encode(document)))
    found.set_param({"nthread": 1})
    return found


def _written(tree: _Tree, index: int, width: int) -> dict[str, Any]:
    """A tree in XGBoost's JSON. A value goes left there where it is below the limit, so the limit is the next float32 above a threshold."""
    import numpy as np

    order, lefts, parents = _laid(tree, index)
    inner = lefts >= 0
    feature, threshold, value = tree.feature[order], tree.threshold[order], tree.value[order]
    if not ((feature >= 0) & (feature < width))[inner].all():
        raise ValueError(f"tree {index} of the estimator asks for a feature that it does not read")
    with np.errstate(over="ignore"):
        near = np.clip(threshold, -GREATEST, GREATEST).astype(np.float32)
        limit = np.where(near > threshold, near, np.nextafter(near, np.float32(np.inf)))
    codes = {
        place: tree.codes[node] for place, node in enumerate(order.tolist()) if node in tree.codes
    }
    sizes = [len(found) for found in codes.values()]
    return {
        "base_weights": value.tolist(), "categories": [code for found in codes.values() for code in found], "categories_nodes": list(codes),
        "categories_segments": [sum(sizes[:place]) for place in range(len(sizes))], "categories_sizes": sizes,
        "default_left": (tree.missing_left[order] & inner).astype(int).tolist(), "id": index, "left_children": lefts.tolist(),
        "loss_changes": np.where(inner, tree.gain[order], 0.0).tolist(), "parents": parents.tolist(),
        "right_children": np.where(inner, lefts + 1, -1).tolist(),
        "split_conditions": np.where(inner, np.clip(limit, -GREATEST, GREATEST), value.astype(np.float32)).astype(float).tolist(),
        "split_indices": np.where(inner, feature, 0).tolist(), "split_type": [int(place in codes) for place in range(len(order))],
        "sum_hessian": tree.cover[order].tolist(),
        "tree_param": {"num_deleted": "0", "num_feature": str(width), "num_nodes": str(len(order)), "size_leaf_vector": "1"},
    }  # fmt: skip


def _laid(
    tree: _Tree, index: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """A tree's nodes from its root down, siblings side by side, as XGBoost walks them: their former places, where the left children (-1 for
    leaves) and the parents stand now. Raises ValueError for nodes that are no tree."""
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
    """A tree of a forest of `trees`: its leaves add their share of the class 1, divided by the number of trees."""
    import numpy as np

    cover, share = tree.weighted_n_node_samples, tree.value[:, 0, :]
    impurity = cover * tree.impurity
    # Whether the children's places are sound is checked later.
    gain = (
        impurity
        - impurity.take(tree.children_left, mode="clip")
        - impurity.take(tree.children_right, mode="clip")
    )
    return _Tree(
        tree.children_left, tree.children_right, tree.feature, tree.threshold, np.asarray(tree.missing_go_to_left, dtype=bool),
        share[:, 1] / share.sum(axis=1) / trees, cover, gain, {},
    )  # fmt: skip


def _of_boosting(ensemble: Any) -> list[_Tree]:
    """The trees of histogram-based gradient boosting. The first one's leaves add what the ensemble starts with, too."""
    import numpy as np

    width = ensemble.n_features_in_
    categorical = (
        np.zeros(width, dtype=bool)
        if ensemble.is_categorical_ is None
        else ensemble.is_categorical_
    )
    # Categories are encoded anew and come first.
    order = np.concatenate([np.flatnonzero(categorical), np.flatnonzero(~categorical)])
    encoded: dict[int, dict[float, int]] = {}
    if categorical.any():
        categories = ensemble._preprocessor.named_transformers_["encoder"].categories_
        encoded = {
            int(column): {float(code): place for place, code in enumerate(codes) if code == code}
            for column, codes in zip(np.flatnonzero(categorical), categories, strict=True)
        }
    start = float(ensemble._baseline_prediction.item())
    found = []
    for index, (predictor,) in enumerate(ensemble._predictors):
        nodes = predictor.nodes
        leaf = nodes["is_leaf"].astype(bool)
        feature = order[nodes["feature_idx"]]
        codes: dict[int, list[int]] = {}
        for node in np.flatnonzero(nodes["is_categorical"].astype(bool) & ~leaf).tolist():
            bits = predictor.raw_left_cat_bitsets[nodes["bitset_idx"][node]]
            places = encoded[int(feature[node])]
            unknown_right = not nodes["missing_go_to_left"][node]
            codes[node] = [
                code for code in CODES
                if (unknown_right if (place := places.get(code)) is None else not bits[place // 32] >> np.uint32(place % 32) & np.uint32(1))
            ]  # fmt: skip
        found.append(
            _Tree(
                np.where(leaf, -1, nodes["left"].astype(np.int64)), np.where(leaf, -1, nodes["right"].astype(np.int64)), feature,
                nodes["num_threshold"], nodes["missing_go_to_left"].astype(bool), nodes["value"] + (0.0 if index else start),
                nodes["count"].astype(np.float64), nodes["gain"], codes,
            )
        )  # fmt: skip
    return found
