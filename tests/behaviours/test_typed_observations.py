"""Observations of a model with fields for them hold the reward and the end, over each transport."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Final

import msgspec
import pytest

from openenv_async import EnvClient, Environment, HTTPEnvClient, StepResult, serve
from openenv_async.compat.upstream import types as upstream
from openenv_async.compat.upstream.interfaces import Environment as UpstreamEnvironment
from openenv_async.hosts.upstream import AppCall, host_of_call


class Said(upstream.Observation):
    text: str = ""


@dataclasses.dataclass(frozen=True)
class SaidData:
    text: str = ""
    reward: float | None = None
    done: bool = False


class SaidStruct(msgspec.Struct, frozen=True):
    text: str = ""
    reward: float = 0.0
    done: bool = False


class Say(upstream.Action):
    text: str = ""


class OfUpstream(UpstreamEnvironment[Say, Said, upstream.State]):
    """Say it back; its server tells reward and end beside the observation."""

    def reset(self, *_: Any, **__: Any) -> Said:
        return Said(text="hi")

    def step(self, action: Say, *_: Any, **__: Any) -> Said:
        return Said(text=action.text, reward=1.5, done=action.text == "end")

    @property
    def state(self) -> upstream.State:
        return upstream.State()


def beside(model: Any) -> type[Environment[Any, Any, Any]]:
    """An environment that gives reward and end beside its observations itself."""

    class Beside(Environment[dict[str, Any], model, dict[str, Any]]):
        async def reset(self) -> Any:
            return model(text="hi")

        async def step(self, action: dict[str, Any]) -> Any:
            return StepResult(model(text=action["text"]), 1.5, action["text"] == "end")

    return Beside


OverSocket: Any = EnvClient
OverHttp: Any = HTTPEnvClient
Connect = Callable[[str, Any], Any]
TRANSPORTS: Final[dict[str, Connect]] = {
    "msgpack": lambda url, model: OverSocket[Any, model, Any](url),
    "json": lambda url, model: OverSocket[Any, model, Any](url, subprotocol="openenv.v1.json"),
    "upstream": lambda url, model: OverSocket[Any, model, Any](url, subprotocol="upstream"),
    "HTTP": lambda url, model: OverHttp[Any, model, Any](url),
}
SERVED: Final[dict[str, tuple[Any, Any]]] = {
    "of upstream": (
        host_of_call(AppCall(OfUpstream, Say, Said, upstream.State, "said", 1)),
        Said,
    ),
    "pydantic": (beside(Said), Said),
    "dataclass": (beside(SaidData), SaidData),
    "struct": (beside(SaidStruct), SaidStruct),
}


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("kind", SERVED)
async def test_reward_and_end_are_in_the_observation(kind: str, transport: str) -> None:
    env, model = SERVED[kind]
    async with serve(env) as url, TRANSPORTS[transport](url, model) as client:
        begun = await client.reset()
        assert isinstance(begun.observation, model)
        assert (begun.observation.reward or 0.0, begun.observation.done) == (0.0, False)
        step = await client.step({"text": "on"})
        assert (step.observation.reward, step.observation.done) == (1.5, False)
        end = await client.step({"text": "end"})
        assert (end.observation.text, end.observation.reward, end.observation.done) == (
            *("end", 1.5, True),
        )
        assert (end.reward, end.done) == (1.5, True)
