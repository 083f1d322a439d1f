"""The environments of this repository keep the certificates that the documentation tells of."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest

from openenv_async.checks.certify import certify

ROOT: Final = Path(__file__).parents[3]
NAMES: Final = [
    *("atari", "chat", "coding", "finrl", "gymnasium", "openspiel", "repl", "sqlite_questions")
]
"""All with statements but ``browsergym``, which takes minutes."""

pytestmark = pytest.mark.heavy


@pytest.mark.parametrize("name", NAMES)
async def test_its_certificate_is_the_one_that_is_told_of(name: str) -> None:
    folder = ROOT / "environments" / name
    certificate = await certify(folder, episodes=8, seconds=6, concurrency=4)
    failed = {result.name: result.reason for result in certificate.of("failed")}
    assert certificate.verdict == "passed", failed


@pytest.mark.parametrize("name", ["the_oracle_solves_it"])
async def test_what_states_nothing_is_not_shown(name: str) -> None:
    certificate = await certify(ROOT / "environments" / "echo", names=[name])
    assert certificate.verdict == "not shown"
