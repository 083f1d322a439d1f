"""A run that is killed again and again is finished once, and all accounts of it agree."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.killed_runs import play_killed

pytest.importorskip("sqlite_questions_env")


@pytest.mark.parametrize(
    ("count", "size", "kills"),
    [
        pytest.param(24, 4, 3, id="small"),
        pytest.param(1000, 8, 0, id="whole", marks=pytest.mark.heavy),
        pytest.param(1000, 8, 20, id="killed", marks=pytest.mark.heavy),
    ],
)
async def test_a_run_of_a_language_model_is_finished_once(
    tmp_path: Path, count: int, size: int, kills: int
) -> None:
    audit = await play_killed(tmp_path, count=count, size=size, kills=kills)
    assert audit.problems == []
    assert audit.outcomes == count * size
    assert audit.groups == count
    assert min(kills, 1) <= audit.kills <= kills
    assert set(audit.statuses) <= {"completed", "invalid_action"}
    # The records count each reply of the model's server that was used.
    assert audit.used["nonsense"] == audit.mistakes["unreadable_reply"] > 0
    assert audit.used["refused"] == audit.mistakes["refused_action"] > 0
    assert audit.used["answer"] == audit.steps
    if not kills:
        assert {name: audit.given[name] for name in _USED} == dict(audit.used)
    assert not audit.used - Counter({name: audit.used[name] for name in _USED})


_USED = ("answer", "nonsense", "refused")
"""Replies; a cut answer and a 429 are asked for again."""
