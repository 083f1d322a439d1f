"""Coding agents that nobody here wrote, at exact releases, and how each is run by a test."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from openenv_async.gateway.agent_settings import AgentAddresses, agent_settings
from tests.peers import ensure_npm_peer

__all__ = ["AGENTS", "AgentProgram", "Ended", "programs", "run_agent"]


@dataclass(frozen=True)
class AgentProgram:
    """One agent of the npm registry.

    Attributes:
        package: with its release.
        arguments: such that it does one task without a person; the task comes after them.
        shell: the tool by which it runs commands.
        command: that tool's argument for the command.
        more: the tool's other arguments.
    """

    package: str
    arguments: tuple[str, ...]
    shell: str
    command: str = "command"
    more: tuple[tuple[str, Any], ...] = ()

    def run(self, line: str) -> tuple[str, dict[str, Any]]:
        """Return name and arguments of a tool call that runs a line of shell."""
        return self.shell, {self.command: line, **dict(self.more)}


AGENTS: Final = {
    "claude": AgentProgram(
        "@anthropic-ai/claude-code@2.1.328",
        ("-p", "--dangerously-skip-permissions"),
        "Bash",
        more=(("description", "Run a command"),),
    ),
    "codex": AgentProgram(
        "@openai/codex@0.169.0",
        ("exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"),
        "exec_command",
        "cmd",
    ),
    "opencode": AgentProgram(
        "opencode-ai@1.18.33",
        ("run",),
        "bash",
        more=(("description", "Run a command"),),
    ),
    "pi": AgentProgram("@mariozechner/pi-coding-agent@0.73.1", ("-p",), "bash"),
    "qwen": AgentProgram(
        "@qwen-code/qwen-code@0.24.4",
        ("--yolo", "-p"),
        "run_shell_command",
        more=(("is_background", False),),
    ),
}
"""Name of its program -> the agent."""


@dataclass(frozen=True)
class Ended:
    """The end of an agent's run; ``status`` is that of its process."""

    status: int
    output: str
    errors: str


def programs(agent: str) -> str:
    """Return the folder in which an agent's program is, which is installed if need be."""
    return ensure_npm_peer(agent, AGENTS[agent].package)


async def run_agent(
    agent: str,
    task: str,
    folder: Path,
    addresses: AgentAddresses,
    *,
    programs: str,
    arguments: tuple[str, ...] | None = None,
    seconds: float = 60.0,
) -> Ended:
    """Run an agent in ``folder/work`` with a ``HOME`` of its own, and kill what is left of it.

    Args:
        agent: of ``AGENTS``.
        task: its prompt.
        folder: for its files; made.
        addresses: of its model, and of its environment.
        programs: the folder in which its program is.
        arguments: in place of the usual ones.
        seconds: it is killed after them, and ``TimeoutError`` is raised.
    """
    settings = agent_settings(agent, addresses)
    home, work = folder / "home", folder / "work"
    work.mkdir(parents=True)
    for name, text in settings.files.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    environment = {
        "HOME": str(home),
        "IS_SANDBOX": "1",  # claude runs for root only where it says so
        "LANG": "C.UTF-8",
        "NO_COLOR": "1",
        "PATH": os.defpath + ":/usr/local/bin",
        "TERM": "dumb",
        **settings.environment,
    }
    used = AGENTS[agent].arguments if arguments is None else arguments
    with (folder / "output").open("wb") as output, (folder / "errors").open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *(f"{programs}/{agent}", *used, task),
            cwd=work,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(seconds):
                status = await process.wait()
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
    written = [(folder / name).read_text(errors="replace") for name in ("output", "errors")]
    return Ended(status, *written)
