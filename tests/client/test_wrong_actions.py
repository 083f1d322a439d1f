"""An action of the wrong type is refused over every format; none becomes one of the right type."""

from __future__ import annotations

from typing import Any, Literal

import pytest

from openenv_async import Environment, connect
from openenv_async.errors import InvalidAction

Dict = dict[str, Any]


class Texts(Environment[str, Dict, Dict]):
    isolation = "inline"

    def reset(self) -> Dict:
        return {}

    def step(self, action: str) -> Dict:
        return {"took": action}


class Counts(Environment[dict[str, int], Dict, Dict]):
    isolation = "inline"

    def reset(self) -> Dict:
        return {}

    def step(self, action: dict[str, int]) -> Dict:
        return {"took": action}


@pytest.mark.parametrize("format", ["msgpack", "json"])
@pytest.mark.parametrize(
    ("env", "wrong", "right"),
    [
        (Texts, b"a", "a"),
        (Texts, 1, "a"),
        (Counts, {1: 1}, {"1": 1}),
        (Counts, {"a": "1"}, {"a": 1}),
        (Counts, {"a": True}, {"a": 1}),
    ],
)
async def test_an_action_of_another_type_is_refused(
    env: type[Environment[Any, Any, Any]],
    wrong: Any,
    right: Any,
    format: Literal["msgpack", "json"],
) -> None:
    async with connect(env, format=format) as client:
        await client.reset()
        with pytest.raises(InvalidAction, match="does not fit"):
            await client.step(wrong)
        assert (await client.step(right)).observation == {"took": right}
