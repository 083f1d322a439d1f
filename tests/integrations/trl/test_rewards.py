"""Completions that an environment scores."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from typing import Any

import pytest

from openenv_async.integrations.trl import (
    make_reward_func,
)


def completion_action(completion: Any, ids: Any) -> Any:
    return {"text": completion}


@pytest.mark.parametrize("blocking", [True, False])
def test_completions_are_scored_by_an_environment(talk: str, blocking: bool) -> None:
    def by_column(row: Any) -> Any:
        return {"fault": row["fault"]}

    reward = make_reward_func(talk, completion_action, reset=by_column, blocking=blocking)
    assert inspect.iscoroutinefunction(reward) is not blocking
    assert reward.__name__ == "environment"
    columns = {"fault": ["", "reset raises", "unrewarded"], "trainer_state": object()}
    call: Callable[[], Any] = functools.partial(
        reward, prompts=["p"] * 3, completions=["a", "bb", "c"], completion_ids=None, **columns
    )
    assert (call() if blocking else asyncio.run(call())) == [1.0, None, None]
