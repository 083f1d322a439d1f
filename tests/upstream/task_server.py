"""An environment with tasks on upstream's own server; runs in upstream's environment.

``python task_server.py`` prints ``{"url": …}`` and serves until it is killed.
"""

# Upstream is not installed where this is type-checked, so its base classes are Any there.
# mypy: disable-error-code="misc"

from __future__ import annotations

import json
import socket
import sys
from typing import Any

import uvicorn
from openenv.core.env_server.http_server import create_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State

ROWS = [{"id": f"q{n}", "index": n, "question": f"{n}?"} for n in range(5)]


class Say(Action):
    text: str


class Said(Observation):
    text: str = ""


class Sums(Environment[Say, Said, State]):
    def reset(self, seed: Any = None, episode_id: Any = None, **options: Any) -> Said:
        return Said(text=ROWS[options["index"]]["question"] if "index" in options else "")

    def step(self, action: Say, **_: Any) -> Said:
        return Said(text=action.text, done=True, reward=1.0)

    @property
    def state(self) -> State:
        return State()

    def list_splits(self) -> list[str]:
        return ["train", "odd"]

    def list_tasks(self, split: str) -> list[Any]:
        return ROWS

    def num_tasks(self, split: str) -> int:
        return len(ROWS)

    def get_task(self, split: str, index: int) -> Any:
        if index < 0:
            raise IndexError(index)
        return ROWS[index]

    def get_task_range(self, split: str, start: Any = None, stop: Any = None) -> list[Any]:
        return ROWS[start:stop]


class Plain(Environment[Say, Said, State]):
    def reset(self, seed: Any = None, episode_id: Any = None, **options: Any) -> Said:
        return Said()

    def step(self, action: Say, **_: Any) -> Said:
        return Said()

    @property
    def state(self) -> State:
        return State()


def main() -> None:
    environment = {"Sums": Sums, "Plain": Plain}[sys.argv[1]]
    app = create_app(environment, Say, Said, env_name=sys.argv[1])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        free.listen()
        port = free.getsockname()[1]
        sys.stdout.write(json.dumps({"url": f"http://127.0.0.1:{port}"}) + "\n")
        sys.stdout.flush()
        uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[free])


if __name__ == "__main__":
    main()
