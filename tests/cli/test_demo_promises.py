"""What a demo says of itself: its figures, its JSON, and the promises that its exit code keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cli.demo.facts import Facts, document, problems
from cli.demo.quality import compare


def test_quality_is_computed_on_the_same_rows() -> None:
    label = np.array([0.0, 1.0, 1.0, 0.0])
    good, poor = np.array([0.1, 0.9, 0.8, 0.2]), np.array([0.5, 0.5, 0.5, 0.5])
    found = compare(label, good, poor)
    assert found["rows"] == 4
    assert found["live"]["roc_auc"] == 1.0
    assert found["never_retrained"] == {
        "log_loss": pytest.approx(np.log(2), abs=1e-5),
        "roc_auc": 0.5,
    }
    with pytest.raises(ValueError, match="differ"):
        compare(label, good, poor[:3])
    with pytest.raises(ValueError, match="classes"):
        compare(np.ones(4), good, poor)
    with pytest.raises(ValueError, match="never_retrained"):
        compare(label, good, np.array([0.1, np.nan, 0.2, 0.3]))


def served(day: str, bundle: str) -> Any:
    return {"day": day, "bundle": bundle, "arms": [{"bundle": bundle, "share": 1.0}]}


def rollout(bundle: str, steps: int, outcome: str = "") -> Any:
    """The last `steps` steps of a whole rollout."""
    way = [
        ("shadow", 0.0, "2013-04-30"),
        ("canary", 0.1, "2013-05-01"),
        ("canary", 0.5, "2013-05-02"),
        ("full", 1.0, "2013-05-03"),
    ]
    taken = [{"stage": stage, "share": share, "day": day} for stage, share, day in way[-steps:]]
    return {
        "bundle": bundle,
        "steps": taken,
        "outcome": outcome or ("superseded" if steps == 1 else "full"),
        "reason": "",
    }


def facts(**changes: Any) -> Facts:
    quality = compare(np.array([0.0, 1.0]), np.array([0.2, 0.8]), np.array([0.4, 0.6]))
    first = {
        "as_of": "2013-03-31",
        "cause": "first_model",
        "candidate": "c",
        "champion_before": None,
        "released": True,
    }
    second = {**first, "as_of": "2013-04-30", "cause": "calendar", "champion_before": "x"}
    told: dict[str, Any] = {
        "seconds": 1.0, "days": 90, "wanted_days": 90, "requests": 9, "failed_requests": 0, "failed_runs": [], "retrains": [first, second],
        "served": [served("2013-03-31", "x"), served("2013-05-03", "y")], "rollouts": [rollout("x", 1), rollout("y", 4)],
        "answering": "y", "comparison": quality,
        "ledger_entries": 4, "ledger_verified": True,
    }  # fmt: skip
    return {**told, **changes}  # type: ignore[return-value]


def test_the_demo_succeeds_only_when_all_its_claims_came_true() -> None:
    assert problems(facts()) == []
    shown = document(facts())
    assert shown["served"] == [
        {"from": day, "bundle": bundle, "arms": [{"bundle": bundle, "share": 1.0}]}
        for day, bundle in (("2013-03-31", "x"), ("2013-05-03", "y"))
    ]
    assert [each["outcome"] for each in shown["rollouts"]] == ["superseded", "full"]
    assert list(shown) == [
        "seconds",
        "days",
        "requests",
        "failed_requests",
        "retrains",
        "served",
        "rollouts",
        "rows",
        "live",
        "never_retrained",
        "ledger",
    ]
    for changes in (
        {"days": 1}, {"requests": 0}, {"failed_requests": 1}, {"failed_runs": ["x"]}, {"served": []}, {"retrains": []},
        {"retrains": facts()["retrains"][:1]}, {"answering": "x"}, {"comparison": None}, {"ledger_verified": False},
        {"rollouts": [rollout("x", 1), rollout("y", 1, "full")]}, {"rollouts": [rollout("x", 1), rollout("y", 2)]},
        {"rollouts": [rollout("x", 1, "full"), rollout("y", 3, "rolled_back")]},
    ):  # fmt: skip
        assert problems(facts(**changes)), changes


def test_a_short_demo_promises_no_retrain_but_everything_else() -> None:
    first_alone = {
        "days": 21,
        "wanted_days": 21,
        "retrains": facts()["retrains"][:1],
        "rollouts": [rollout("x", 1, "full")],
        "served": [served("2013-03-31", "x")],
        "answering": "x",
    }
    assert problems(facts(**first_alone)) == []
    assert problems(facts(**first_alone, failed_requests=1)) == ["1 of 9 requests failed"]
    assert problems(facts(**{**first_alone, "retrains": []}))
    assert problems(facts(**{**first_alone, "answering": "y"}))
    long = {**first_alone, "days": 60, "wanted_days": 60}
    assert "no retrained model was released" in problems(facts(**long))
