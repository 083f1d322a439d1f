"""The checks of legal actions, each broken by an environment; and environments that keep them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from openenv_async import serve
from openenv_async.checks.validation import legal, validate
from tests.checks.validation.broken import BROKEN, Counts, Good
from tests.checks.validation.caught import broken_in, is_caught, names_of
from tests.legal_games import Bits, Corridor, MaskedCorridor, Pairs, Seen


@broken_in(legal)
async def test_each_broken_environment_is_caught_by_its_check(cls: Any) -> None:
    await is_caught(cls)


def test_every_check_catches_one() -> None:
    assert names_of(legal) <= set(BROKEN.values())


async def found(env: Any) -> dict[str, tuple[str, str]]:
    """Return status and reason of each check of legal actions."""
    async with serve(env) as url:
        results = await validate(url, names=names_of(legal))
    names = names_of(legal)
    return {each.name: (each.status, each.reason) for each in results if each.name in names}


@pytest.mark.parametrize("env", [Counts, Corridor, MaskedCorridor])
async def test_what_keeps_them_passes(env: Any) -> None:
    assert {status for status, _ in (await found(env)).values()} == {"passed"}


@pytest.mark.parametrize("env", [Pairs, Bits, Seen])
async def test_gymnasiums_masks_are_looked_at_too(env: Any) -> None:
    """Gymnasium's rule for others is none: some are taken and change nothing."""
    results = await found(env)
    assert results["legal_actions_are_taken"][0] == "passed"
    status, reason = results["other_actions_are_refused"]
    assert (status, "does not promise" in reason) == ("skipped", True)


async def test_they_are_skipped_where_nothing_is_told_or_everything_is_legal() -> None:
    silent = await found(Good)
    assert {status for status, _ in silent.values()} == {"skipped"}
    assert "does not tell which actions are legal" in silent["legal_actions_are_taken"][1]

    def all_three(self: Any) -> Any:
        return np.ones(3, bool)

    free = type("Free", (Corridor,), {"legal_actions": all_three, "_sides": lambda _: [-1, 0, 1]})
    results = await found(free)
    assert results["legal_actions_are_taken"][0] == "passed"
    assert results["other_actions_are_refused"][0] == "skipped"


async def test_an_action_that_is_fit_at_every_moment_need_not_be_listed() -> None:
    class Resting(Corridor):
        """Staying is always taken, and draws from the schema make it so."""

        @classmethod
        def schemas(cls, **params: Any) -> dict[str, Any]:
            schemas = super().schemas()
            schemas["action"]["properties"]["side"]["x-sample"] = {"const": 0}
            return schemas

        def _sides(self) -> list[int]:
            return [0, *super()._sides()]

        def legal_actions(self) -> Any:
            return np.array([side in Corridor._sides(self) for side in (-1, 0, 1)])

    results = await found(Resting)
    assert {status for status, _ in results.values()} == {"passed"}
