"""A play on an environment of tools, for an interpreter that has FastMCP: prints what it saw.

``python mcp_play.py theirs`` plays with upstream's own classes, ``ours`` with this project's.
"""

# FastMCP has no types here, and one name for a tool of each mode is as authors write it.
# mypy: disable-error-code="untyped-decorator, no-redef"

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

if sys.argv[1] == "ours":
    from openenv_async.compat.upstream.finder import install_names

    assert install_names(shadow=True)

from fastmcp import FastMCP
from openenv.core.env_server.mcp_environment import MCPEnvironment
from openenv.core.env_server.mcp_types import CallToolAction, ListToolsAction
from openenv.core.env_server.types import Action, Observation, State


class Tools(MCPEnvironment):  # type: ignore[misc]  # upstream's, or ours by its name
    def __init__(self) -> None:
        mcp = FastMCP("tools")

        @mcp.tool
        def add(a: int, b: int = 1) -> int:
            """Add two numbers."""
            return a + b

        @mcp.tool
        async def wait() -> str:
            """Wait for ever."""
            await asyncio.Event().wait()
            return ""

        @mcp.tool
        def broken() -> dict[str, Any]:
            """Raise."""
            raise ValueError("it broke")

        super().__init__(mcp)

        @self.tool()
        def everywhere(text: str) -> str:
            """Be there in both modes."""
            return text.upper()

        @self.tool(mode="production")
        def where(depth: int, name="x") -> str:
            """Say the mode."""
            return f"production {depth}"

        @self.tool(mode="simulation")
        async def where(depth: int) -> str:  # noqa: F811  # one name for both modes
            """Say the mode."""
            if depth < 0:
                raise ValueError("too deep")
            return f"simulation {depth}"

    def reset(self, seed: int | None = None, **kwargs: Any) -> Observation:
        return Observation()

    def _step_impl(
        self, action: Action, timeout_s: float | None = None, **kwargs: Any
    ) -> Observation:
        return Observation(metadata={"kind": type(action).__name__, "timeout_s": timeout_s})

    @property
    def state(self) -> State:
        return State(step_count=1)


def refused(function: Any, *args: Any, **kwargs: Any) -> str:
    try:
        function(*args, **kwargs)
    except (ValueError, RuntimeError) as exc:
        return type(exc).__name__
    return "not refused"


def play() -> list[Any]:
    env = Tools()
    actions = [
        (ListToolsAction(), None),
        (CallToolAction(tool_name="add", arguments={"a": 2}), None),
        (CallToolAction(tool_name="add", arguments={"a": "two"}), None),
        (CallToolAction(tool_name="add", arguments={"c": 2}), None),
        (CallToolAction(tool_name="nothing"), None),
        (CallToolAction(tool_name="broken"), None),
        (CallToolAction(tool_name="wait"), 0.05),
        (CallToolAction(tool_name="everywhere", arguments={"text": "a"}), None),
        (CallToolAction(tool_name="where", arguments={"depth": 1}), None),
        (CallToolAction(tool_name="where", arguments={"depth": -1}), None),
        (Action(), 3.0),
    ]
    seen: list[Any] = []
    for mode in (None, "production", "simulation"):
        if mode is not None:
            env._mode = mode
        seen.append(sorted(env.get_callables()))
        for action, seconds in actions:
            seen.append(env.step(action, timeout_s=seconds).model_dump(mode="json"))
            step = env.step_async(action, timeout_s=seconds)
            seen.append(asyncio.run(step).model_dump(mode="json"))
    codes = ("result = add(2, 3)", "result = (", "result = nothing", "a = 1")
    seen += [env.execute_code(code).model_dump(mode="json") for code in codes]

    async def within_a_loop() -> Any:
        return env.step(CallToolAction(tool_name="add", arguments={"a": 5}))

    seen.append(asyncio.run(within_a_loop()).model_dump(mode="json"))
    reserved = FastMCP("reserved")
    reserved.tool(lambda: 1, name="reset")

    class Reserved(Tools):
        def __init__(self) -> None:
            MCPEnvironment.__init__(self, reserved)

    def state() -> None:
        """Have a reserved name."""

    seen += [refused(Reserved), refused(env.tool, mode="fast"), refused(env.tool(), state)]
    seen.append(env.supports_code_mode)
    env.close()
    seen.append(refused(env.tool(), refused))
    return seen


if __name__ == "__main__":
    sys.stdout.write(json.dumps(play()))
