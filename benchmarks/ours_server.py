"""The echo environment of the comparison, served by this project.

It can be served by the command line as well:
``openenv-async serve benchmarks.ours_server:EchoInline --port 0 --json``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from benchmarks.driver import announce, raise_file_limit, server_parser
from openenv_async import EngineOptions, Environment, Timeouts, Tool
from openenv_async.server.run import run_server

FRAME_SHAPE: Final = (84, 84, 4)


@dataclass(slots=True)
class EchoAction:
    """A message of the agent."""

    message: str


@dataclass(slots=True)
class EchoObservation:
    """The reply to it."""

    message: str
    reward: float | None = None


@dataclass(slots=True)
class FrameObservation:
    """An observation with a frame, uint8 [84, 84, 4] (flat where the size asked for is another)."""

    message: str
    frame: NDArray[np.uint8]
    reward: float | None = None


class Echo(Environment[EchoAction, EchoObservation, dict[str, Any]]):
    """Short sync steps; a subclass says where they run."""

    def __init__(self) -> None:
        self.step_count = 0

    def reset(self) -> EchoObservation:
        self.step_count = 0
        return EchoObservation(message="ready")

    def step(self, action: EchoAction) -> EchoObservation:
        self.step_count += 1
        return EchoObservation(message=action.message, reward=1.0)

    def state(self) -> dict[str, Any]:
        return {"step_count": self.step_count}


class EchoInline(Echo):
    """Called straight from the reader."""

    isolation = "inline"


class EchoThread(Echo):
    """Called in the shared thread pool."""

    isolation = "thread"


class EchoAsync(Environment[EchoAction, EchoObservation, dict[str, Any]]):
    """An async environment: a task for every session."""

    def __init__(self) -> None:
        self.step_count = 0

    async def reset(self) -> EchoObservation:
        self.step_count = 0
        return EchoObservation(message="ready")

    async def step(self, action: EchoAction) -> EchoObservation:
        self.step_count += 1
        return EchoObservation(message=action.message, reward=1.0)

    def state(self) -> dict[str, Any]:
        return {"step_count": self.step_count}


class EchoTools(Echo):
    """Called by a tool, over JSON-RPC and MCP; inline, as its calls take microseconds."""

    isolation = "inline"
    tools = (
        Tool(
            "echo_message",
            "Echo a message.",
            {"type": "object", "properties": {"message": {"type": "string"}}},
            result_field="message",
        ),
    )


class EchoFrame(Environment[EchoAction, FrameObservation, dict[str, Any]]):
    """Every observation carries a frame."""

    isolation = "inline"
    frame: ClassVar[NDArray[np.uint8]] = np.zeros(FRAME_SHAPE, np.uint8)

    def reset(self) -> FrameObservation:
        return FrameObservation(message="ready", frame=self.frame)

    def step(self, action: EchoAction) -> FrameObservation:
        return FrameObservation(message=action.message, frame=self.frame, reward=1.0)


def make_frame(size: int) -> NDArray[np.uint8]:
    frame = (np.arange(size) * 37 % 256).astype(np.uint8)
    return frame.reshape(FRAME_SHAPE) if size == np.prod(FRAME_SHAPE) else frame


def main() -> None:
    kinds: dict[str, type[Environment[Any, Any, Any]]] = {
        "inline": EchoInline,
        "thread": EchoThread,
        "async": EchoAsync,
        "tools": EchoTools,
    }
    args = server_parser(__doc__, list(kinds)).parse_args()
    raise_file_limit()
    environment = kinds[args.kind]
    if args.payload_bytes:
        EchoFrame.frame = make_frame(args.payload_bytes)
        environment = EchoFrame
    timeouts = Timeouts()
    if args.bare:
        timeouts = Timeouts(**dict.fromkeys((item.name for item in fields(Timeouts)), None))
    options = EngineOptions(max_sessions=args.max_sessions, timeouts=timeouts)
    run_server(environment, port=args.port, options=options, on_listening=announce)


if __name__ == "__main__":
    main()
