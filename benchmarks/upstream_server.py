"""An echo environment written against upstream's API and served the way upstream serves one.

Runs in upstream's virtual environment. Without ``--tuned`` it is served as upstream's project
template does it. With ``--tuned`` it is served as well as uvicorn's own options allow: uvloop, no
permessage-deflate, no access log.
"""

from __future__ import annotations

import base64
from typing import Any, ClassVar

import uvicorn
from fastmcp import FastMCP
from openenv.core.env_server.http_server import create_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.mcp_environment import MCPEnvironment
from openenv.core.env_server.mcp_types import CallToolAction, CallToolObservation
from openenv.core.env_server.types import Action, Observation, State

from benchmarks.driver import announce, raise_file_limit, server_parser


class EchoAction(Action):
    """A message of the agent."""

    message: str


class EchoObservation(Observation):
    """The reply to it."""

    message: str


class IntsObservation(EchoObservation):
    """An observation with a frame the way upstream's Atari environment carries one."""

    frame: list[int]


class Base64Observation(EchoObservation):
    """An observation with a frame the cheapest way upstream's JSON can carry one."""

    frame: str


class EchoEnvironment(Environment[EchoAction, EchoObservation, State]):
    """Upstream runs a sync ``step`` on the session's own thread."""

    SUPPORTS_CONCURRENT_SESSIONS: bool = True
    frame: ClassVar[bytes] = b""
    encode_base64: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        self._state = State(step_count=0)

    def _observe(self, message: str) -> EchoObservation:
        if not self.frame:
            return EchoObservation(message=message, reward=1.0)
        if self.encode_base64:
            encoded = base64.b64encode(self.frame).decode("ascii")
            return Base64Observation(message=message, reward=1.0, frame=encoded)
        return IntsObservation(message=message, reward=1.0, frame=list(self.frame))

    def reset(
        self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any
    ) -> EchoObservation:
        self._state = State(episode_id=episode_id, step_count=0)
        return self._observe("ready")

    def step(
        self, action: EchoAction, timeout_s: float | None = None, **kwargs: Any
    ) -> EchoObservation:
        self._state.step_count += 1
        return self._observe(action.message)

    @property
    def state(self) -> State:
        return self._state


class AsyncEchoEnvironment(EchoEnvironment):
    """Upstream runs ``step_async`` on the event loop."""

    async def reset_async(
        self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any
    ) -> EchoObservation:
        return self.reset(seed, episode_id)

    async def step_async(
        self, action: EchoAction, timeout_s: float | None = None, **kwargs: Any
    ) -> EchoObservation:
        return self.step(action)


class ToolsEnvironment(MCPEnvironment):
    """One tool, made with FastMCP as upstream's own echo environment makes its tools."""

    SUPPORTS_CONCURRENT_SESSIONS: bool = True

    def __init__(self) -> None:
        server = FastMCP("echo")

        @server.tool
        def echo_message(message: str) -> str:
            """Echo a message."""
            return message

        super().__init__(server)
        self._state = State(step_count=0)

    def reset(
        self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any
    ) -> Observation:
        self._state = State(episode_id=episode_id, step_count=0)
        return Observation(reward=0.0)

    def _step_impl(
        self, action: Action, timeout_s: float | None = None, **kwargs: Any
    ) -> Observation:
        raise ValueError(f"not a call of a tool: {action!r}")

    @property
    def state(self) -> State:
        return self._state


class AnnouncingServer(uvicorn.Server):
    """The server of ``uvicorn.run``, which says where it listens."""

    async def startup(self, *args: Any, **kwargs: Any) -> None:
        await super().startup(*args, **kwargs)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        announce(f"http://{host}:{port}")


def main() -> None:
    parser = server_parser(__doc__, ["sync", "async", "tools"])
    args = parser.parse_args()
    raise_file_limit()
    EchoEnvironment.frame = bytes(i * 37 % 256 for i in range(args.payload_bytes))
    EchoEnvironment.encode_base64 = args.payload == "base64"
    environments: dict[str, tuple[type[Environment], type[Action], type[Observation]]] = {
        "sync": (EchoEnvironment, EchoAction, EchoObservation),
        "async": (AsyncEchoEnvironment, EchoAction, EchoObservation),
        "tools": (ToolsEnvironment, CallToolAction, CallToolObservation),
    }
    app = create_app(
        *environments[args.kind],
        env_name="echo",
        max_concurrent_envs=args.max_sessions,
    )
    options: dict[str, Any] = (
        {"loop": "uvloop", "ws_per_message_deflate": False, "log_level": "warning"}
        if args.tuned
        # uvloop is in this environment for --tuned; installing upstream does not bring it.
        else {"loop": "asyncio"}
    )
    AnnouncingServer(uvicorn.Config(app, host="127.0.0.1", port=args.port, **options)).run()


if __name__ == "__main__":
    main()
