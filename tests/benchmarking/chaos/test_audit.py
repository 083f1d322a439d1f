"""The findings of a run under faults."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest

from openenv_async.benchmarking.chaos.audit import Audit, ChaosReport


def painted(name: str) -> Any:
    """An array that says a name all over, the last time cut short."""
    return np.frombuffer((name * 9)[:75].encode(), np.uint8)


def test_a_run_passes_that_saw_steps_and_nothing_wrong() -> None:
    assert Audit(seen=1).passed
    assert Audit(seen=1, unsure=5, typed_lost=Counter(session_lost=3), unaudited=9).passed


def test_nothing_seen_is_no_success() -> None:
    assert not Audit().passed


@pytest.mark.parametrize("wrong", ["lost", "repeated", "mismatched"])
def test_each_wrong_step_fails_it(wrong: str) -> None:
    audit = Audit(seen=9)
    setattr(audit, wrong, 1)
    assert not audit.passed


def test_an_error_that_says_nothing_of_the_session_fails_it() -> None:
    assert not Audit(seen=9, untyped=Counter(error=1)).passed


def test_a_report_is_plain() -> None:
    audit = Audit(seen=2, typed_lost=Counter(going_away=1))
    report = ChaosReport("echo", 4, 2, 1.5, 10.0, {"p50": 1.0}, {"cuts": 3}, audit)
    plain = json.loads(json.dumps(report.as_dict()))
    assert plain["passed"] is True
    assert plain["faults"] == {"cuts": 3}
    assert (plain["target"], plain["sessions"], plain["connections"]) == ("echo", 4, 2)
    assert plain["audit"]["typed_lost"] == {"going_away": 1}
    assert plain["audit"]["seen"] == 2


@pytest.mark.parametrize(
    ("observation", "counts"),
    [
        ({"message": "chaos-1-2."}, (1, 0)),
        ({"message": "chaos-1-3."}, (0, 1)),
        ({"message": "nothing"}, (0, 0)),
        ("chaos-1-2.", (1, 0)),
        ({"message": "chaos-1-2.", "frame": painted("chaos-1-2.")}, (1, 0)),
        ({"message": "chaos-1-2.", "frame": painted("chaos-7-2.")}, (0, 1)),
        ({"message": "chaos-1-2.", "frame": np.zeros(40)}, (1, 0)),
    ],
)
def test_replies_that_name_their_request(observation: Any, counts: tuple[int, int]) -> None:
    audit = Audit()
    audit.check_name("chaos-1-2.", observation)
    assert (audit.checked_by_name, audit.mismatched) == counts
