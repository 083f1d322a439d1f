"""Plays against a server with the real upstream client; runs in upstream's own environment.

``python play.py SCENARIO URL`` prints one JSON object. Needs nothing of this project.
"""

# Upstream is not installed where this is type-checked, so its base classes are Any there.
# mypy: disable-error-code="misc"

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from openenv.core import EnvClient, GenericEnvClient
from openenv.core.client_types import StepResult
from openenv.core.env_server.mcp_types import CallToolAction
from openenv.core.env_server.types import Action, Observation, State
from openenv.core.mcp_client import MCPToolClient


class TalkAction(Action):
    say: str


class TalkObservation(Observation):
    echo: str


class TalkState(State):
    total: float = 0.0


class TalkEnv(EnvClient[TalkAction, TalkObservation, TalkState]):
    """The hooks as upstream's project template writes them."""

    def _step_payload(self, action: TalkAction) -> dict[str, Any]:
        return {"say": action.say}

    def _parse_result(self, payload: dict[str, Any]) -> StepResult[TalkObservation]:
        observation = TalkObservation(
            **payload["observation"], done=payload["done"], reward=payload["reward"]
        )
        return StepResult(observation=observation, reward=payload["reward"], done=payload["done"])

    def _parse_state(self, payload: dict[str, Any]) -> TalkState:
        return TalkState(**payload)


def told(result: Any) -> dict[str, Any]:
    return {
        "observation": result.observation,
        "reward": result.reward,
        "done": result.done,
        "metadata": getattr(result, "metadata", None),
    }


async def refusal(call: Callable[[], Awaitable[Any]]) -> dict[str, str]:
    try:
        await call()
    except Exception as exc:
        return {"type": type(exc).__name__, "text": str(exc)}
    return {"type": "", "text": "nothing was raised"}


async def generic(url: str) -> dict[str, Any]:
    played: dict[str, Any] = {}
    async with GenericEnvClient(base_url=url) as env:
        played["early"] = told(await env.step({"say": "early"}))
        played["reset"] = told(await env.reset(seed=42, episode_id="ep-7", unknown_option=1))
        played["step"] = told(await env.step({"say": "hello"}))
        played["state"] = await env.state()
        played["raised"] = await refusal(lambda: env.step({"say": "boom"}))
        played["invalid"] = await refusal(lambda: env.step({"sya": "typo"}))
        played["end"] = told(await env.step({"say": "end"}))
        played["after"] = told(await env.step({"say": "late"}))
    return played


def blocking(url: str) -> dict[str, Any]:
    with GenericEnvClient(base_url=url).sync() as env:
        return {
            "reset": told(env.reset(seed=1)),
            "step": told(env.step({"say": "hello"})),
            "state": env.state(),
        }


async def typed(url: str) -> dict[str, Any]:
    env = TalkEnv(base_url=url)
    await env.connect()
    began = await env.reset(seed=3)
    stepped = await env.step(TalkAction(say="meta"))
    state = await env.state()
    await env.close()
    return {
        "reset": began.observation.model_dump(),
        "step": stepped.observation.model_dump(),
        "reward": stepped.reward,
        "state": state.model_dump(),
    }


async def tools(url: str) -> dict[str, Any]:
    """Upstream's client of tools: JSON-RPC over HTTP, and a socket on the same session."""
    async with MCPToolClient(base_url=url) as env:
        await env.reset(seed=4)
        listed = await env.list_tools()
        return {
            "listed": [tool.model_dump() for tool in listed],
            "has": [await env.has_tool("speak"), await env.has_tool("sing")],
            "called": await env.call_tool("speak", say="hello"),
            "unknown": await refusal(lambda: env.call_tool("sing", say="hello")),
            "raised": await refusal(lambda: env.call_tool("speak", say="boom")),
            "step": (
                await env.step(CallToolAction(tool_name="speak", arguments={"say": "x"}))
            ).observation.result["data"],
            "state": (await env.state()).model_dump(),
        }


async def full(url: str) -> dict[str, Any]:
    async def visit() -> None:
        async with GenericEnvClient(base_url=url) as second:
            await second.reset()

    async with GenericEnvClient(base_url=url) as first:
        await first.reset()
        refused = await refusal(visit)
        goes_on = told(await first.step({"say": "still here"}))
    return {"refused": refused, "goes_on": goes_on}


def main() -> None:
    scenario, url = sys.argv[1:]
    scenarios = {"generic": generic, "typed": typed, "tools": tools, "full": full}
    played = blocking(url) if scenario == "blocking" else asyncio.run(scenarios[scenario](url))
    sys.stdout.write(json.dumps(played) + "\n")


if __name__ == "__main__":
    main()
