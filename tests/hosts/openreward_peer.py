"""A real Open Reward Standard server and its own client; runs where ``openreward`` is installed.

``openreward_peer.py serve`` prints the port that it listens on, and a line with the number of its
sessions whenever it is sent one; it ends with its standard input. ``openreward_peer.py play URL``
reads episodes as JSON from its standard input, plays them with the package's own client, and prints
what came of them as JSON. Needs nothing of this project.
"""

# The package is not installed where this is type-checked, so its base classes are Any there.
# mypy: disable-error-code="misc, untyped-decorator"

from __future__ import annotations

import asyncio
import base64
import json
import os
import random
import socket
import sys
import threading
from typing import Any

import uvicorn
from openreward import AsyncOpenReward
from openreward.api.errors import ToolCallError
from openreward.environments import (
    Environment,
    ImageBlock,
    Server,
    TextBlock,
    ToolOutput,
    terminal,
    tool,
)
from pydantic import BaseModel

PICTURE = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(16)).decode()


class Guess(BaseModel):
    """A number."""

    number: int


class Range(BaseModel):
    low: int
    high: int


class Look(BaseModel):
    within: Range
    tool: str = "glass"


class Said(BaseModel):
    message: str


class Words(BaseModel):
    length: int


class Numbers(Environment):
    """A number from 0 to 63 to find."""

    def __init__(self, task_spec: Any = None, secrets: Any = None) -> None:
        super().__init__(task_spec or {}, secrets or {})
        self.left = 6

    async def setup(self) -> None:
        if self.task_spec["index"] == 39:
            raise RuntimeError("this task cannot be set up")

    @classmethod
    def list_splits(cls) -> list[str]:
        return ["train", "test"]

    @classmethod
    def list_tasks(cls, split: str) -> list[dict[str, Any]]:
        count = 40 if split == "train" else 5
        draw = random.Random(split)
        return [
            {"index": i, "question": f"number {i} of {split}", "answer": draw.randrange(64)}
            for i in range(count)
        ]

    def get_prompt(self) -> list[Any]:
        return [
            TextBlock(text="Find the number."),
            TextBlock(text=self.task_spec["question"]),
            ImageBlock(data=PICTURE, mimeType="image/png"),
        ]

    @tool
    def guess(self, params: Guess) -> ToolOutput:
        """Guess the number."""
        self.left -= 1
        off = params.number - self.task_spec["answer"]
        if off == 0 or self.left == 0:
            text = "right" if off == 0 else "no more guesses"
            reward = 1.0 if off == 0 else -0.25
            return ToolOutput(blocks=[TextBlock(text=text)], reward=reward, finished=True)
        text = "too high" if off > 0 else "too low"
        return ToolOutput(blocks=[TextBlock(text=text)], reward=0.0, metadata={"left": self.left})

    @tool
    async def look(self, params: Look) -> ToolOutput:
        """Say whether the number is within bounds; it gives no reward."""
        inside = params.within.low <= self.task_spec["answer"] <= params.within.high
        return ToolOutput(blocks=[TextBlock(text=f"{params.tool}: {inside}")])

    @tool
    async def words(self, params: Words) -> ToolOutput:
        """Give a long text with spaces."""
        return ToolOutput(blocks=[TextBlock(text=(" word" * params.length)[: params.length])])

    @tool
    async def fail(self) -> ToolOutput:
        """Raise."""
        raise RuntimeError("the tool is out of order")

    @tool
    async def sleep(self) -> ToolOutput:
        """Never answer."""
        await asyncio.Event().wait()
        raise AssertionError

    @terminal
    @tool
    async def answer(self, params: Said) -> ToolOutput:
        """Say the number in words."""
        right = str(self.task_spec["answer"]) in params.message
        return ToolOutput(blocks=[], reward=1.0 if right else 0.0, finished=True)


class Other(Numbers):
    """The same without the tools that no random play should call."""

    fail = sleep = words = None

    async def setup(self) -> None:
        """Succeed, whatever the task."""


def serve() -> None:
    told = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the package logs there, more than a pipe holds
    server = Server([Numbers, Other])
    listening = socket.create_server(("127.0.0.1", 0))
    print(json.dumps({"port": listening.getsockname()[1]}), file=told, flush=True)
    config = uvicorn.Config(server.app, log_level="critical")
    running = uvicorn.Server(config)

    def count() -> None:
        for _ in sys.stdin:
            print(json.dumps({"sessions": len(server._active_envs)}), file=told, flush=True)
        running.should_exit = True

    threading.Thread(target=count, daemon=True).start()
    running.run(sockets=[listening])


async def play(url: str, episodes: list[Any]) -> list[Any]:
    """Return the reward, the end and the text of each action of each episode."""
    client = AsyncOpenReward(api_key="none")
    environment = client.environments.get(name="numbers", base_url=url)
    environment.variant = "numbers"
    at_once = asyncio.Semaphore(16)

    async def one(split: str, index: int, actions: list[Any]) -> list[Any]:
        steps: list[Any] = []
        async with at_once, environment.session(split=split, index=index) as session:
            for action in actions:
                try:
                    output = await session.call_tool(action["tool_name"], action["arguments"])
                except ToolCallError as exc:
                    steps.append([exc.reason])
                    continue
                text = "\n".join(b.text for b in output.blocks if b.type == "text")
                steps.append([output.reward, output.finished, text])
                if output.finished:
                    break
        return steps

    told = await asyncio.gather(*(one(*episode) for episode in episodes))
    await client.environments.aclose()
    return list(told)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        json.dump(asyncio.run(play(sys.argv[2], json.load(sys.stdin))), sys.stdout)
