"""The real upstream client, as the package index has it, against our server."""

from __future__ import annotations

import asyncio
import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from openenv_async import EngineOptions, Environment, Tool, create_app, serve

# One worker makes upstream's environment; the others need not wait for it.
pytestmark = pytest.mark.xdist_group("upstream")

PLAY = Path(__file__).parent / "play.py"


SPEECH = {"type": "object", "properties": {"say": {"type": "string"}}, "required": ["say"]}


@dataclass
class TalkAction:
    say: str


@dataclass
class TalkObservation:
    echo: str
    metadata: dict[str, Any] = field(default_factory=dict)
    reward: float | None = None
    done: bool = False


class Talk(Environment[TalkAction, TalkObservation, dict[str, Any]]):
    tools = (Tool("speak", "Say something.", SPEECH, result_field="echo"),)

    def __init__(self) -> None:
        self.total = 0.0

    def reset(self, seed: int | None = None) -> TalkObservation:
        self.total = 0.0
        return TalkObservation(f"seed {seed}")

    def step(self, action: TalkAction) -> TalkObservation:
        if action.say == "boom":
            raise ValueError("boom in step")
        self.total += 2
        metadata = {"turn": 1} if action.say == "meta" else {}
        return TalkObservation(action.say, metadata, 2.0, action.say == "end")

    def state(self) -> dict[str, Any]:
        return {"total": self.total}


async def play(python: str, scenario: str, url: str) -> Any:
    process = await asyncio.create_subprocess_exec(
        python,
        "-W",
        "ignore",
        str(PLAY),
        scenario,
        url,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    async with asyncio.timeout(120):
        out, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return json.loads(out)


async def test_generic_client(upstream_python: str) -> None:
    app = create_app(Talk)
    async with serve(app) as url:
        played = await play(upstream_python, "generic", url)
        assert not app.state.openenv.engine.sessions
    assert played["early"]["observation"]["echo"] == "early"  # as upstream's server allows it
    assert played["reset"]["observation"] == {"metadata": {}, "echo": "seed 42"}
    assert (played["reset"]["reward"], played["reset"]["done"]) == (None, False)
    assert played["step"]["observation"]["echo"] == "hello"
    assert played["step"]["reward"] == 2.0
    assert played["state"] == {"episode_id": "ep-7", "step_count": 1, "total": 2.0}
    assert played["raised"]["type"] == "RuntimeError"
    assert "boom in step" in played["raised"]["text"]
    assert "EXECUTION_ERROR" in played["raised"]["text"]
    assert played["invalid"]["type"] == "RuntimeError"
    assert "VALIDATION_ERROR" in played["invalid"]["text"]
    assert "`sya`" in played["invalid"]["text"]
    assert played["end"]["done"] is True
    assert played["after"]["observation"]["echo"] == "late"


async def test_generic_client_blocking(upstream_python: str) -> None:
    async with serve(Talk) as url:
        played = await play(upstream_python, "blocking", url)
    assert played["reset"]["observation"]["echo"] == "seed 1"
    assert played["step"]["observation"]["echo"] == "hello"
    assert played["state"]["step_count"] == 1


async def test_a_client_with_pydantic_models(upstream_python: str) -> None:
    async with serve(Talk) as url:
        played = await play(upstream_python, "typed", url)
    assert played["reset"] == {"echo": "seed 3", "metadata": {}, "done": False, "reward": None}
    assert played["step"] == {
        "echo": "meta",
        "metadata": {"turn": 1},
        "done": False,
        "reward": 2.0,
    }
    assert played["reward"] == 2.0
    assert played["state"]["total"] == 2.0
    assert played["state"]["step_count"] == 1


async def test_a_client_of_tools(upstream_python: str) -> None:
    app = create_app(Talk)
    async with serve(app) as url:
        played = await play(upstream_python, "tools", url)
        assert not app.state.openenv.engine.sessions
    (tool,) = played["listed"]
    assert tool == {"name": "speak", "description": "Say something.", "input_schema": SPEECH}
    assert played["has"] == [True, False]
    assert played["called"] == "hello"
    assert "Unknown tool: 'sing'" in played["unknown"]["text"]
    assert "boom in step" in played["raised"]["text"]
    assert played["step"] == "x"
    assert played["state"]["step_count"] == 2  # one session, over HTTP and a socket


async def test_a_full_server(upstream_python: str) -> None:
    async with serve(Talk, options=EngineOptions(max_sessions=1)) as url:
        played = await play(upstream_python, "full", url)
    assert played["refused"]["type"] != ""
    assert "CAPACITY_REACHED" in played["refused"]["text"]
    assert played["goes_on"]["observation"]["echo"] == "still here"
