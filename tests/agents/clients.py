"""Agents that nobody here wrote, at exact releases, and how a test runs each."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from openenv_async.gateway.agent_settings import AgentAddresses, agent_settings
from tests.peers import MODEL_SDKS, ensure_npm_peer, ensure_peer

__all__ = ["AGENTS", "AgentProgram", "Ended", "program", "run_agent"]

_LOOPS: Final = Path(__file__).parent / "loops"
_DESCRIBED: Final = {"description": "Run a command"}


@dataclass(frozen=True)
class AgentProgram:
    """One agent.

    Attributes:
        packages: of the npm registry, or several of the Python package index; with their releases.
        arguments: such that it does one task without a person. The task comes after them; a
            ``{mode}`` among them is how it asks.
        shell: the tool by which it runs commands.
        command: that tool's argument for the command.
        more: the tool's other arguments.
        peer: name of the peer that it is installed as.
        environment: more variables.
    """

    packages: str | tuple[str, ...]
    arguments: tuple[str, ...]
    shell: str = "bash"
    command: str = "command"
    more: Mapping[str, Any] = field(default_factory=dict)
    peer: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self, line: str) -> tuple[str, dict[str, Any]]:
        """Return name and arguments of a tool call that runs a line of shell."""
        return self.shell, {self.command: line, **self.more}


AGENTS: Final[dict[str, AgentProgram]] = {
    "claude": AgentProgram(
        "@anthropic-ai/claude-code@2.1.328",
        ("-p", "--dangerously-skip-permissions"),
        "Bash",
        more=_DESCRIBED,
        environment={"IS_SANDBOX": "1"},  # it runs for root only where this says so
    ),
    "codex": AgentProgram(
        "@openai/codex@0.169.0",
        ("exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"),
        "exec_command",
        "cmd",
    ),
    "opencode": AgentProgram("opencode-ai@1.18.33", ("run",), more=_DESCRIBED),
    "pi": AgentProgram("@mariozechner/pi-coding-agent@0.73.1", ("-p",)),
    "qwen": AgentProgram(
        "@qwen-code/qwen-code@0.24.4",
        ("--yolo", "-p"),
        "run_shell_command",
        more={"is_background": False},
    ),
    "openai": AgentProgram(
        MODEL_SDKS, (str(_LOOPS / "with_openai.py"), "{mode}"), peer="model-sdks"
    ),
    "anthropic": AgentProgram(
        MODEL_SDKS, (str(_LOOPS / "with_anthropic.py"), "{mode}"), peer="model-sdks"
    ),
    "openai-agents": AgentProgram(
        MODEL_SDKS, (str(_LOOPS / "with_openai_agents.py"), "{mode}"), peer="model-sdks"
    ),
    "smolagents": AgentProgram(
        ("smolagents[openai]==1.26.0",),
        (str(_LOOPS / "with_smolagents.py"), "{mode}"),
        peer="smolagents",
    ),
    "mini": AgentProgram(
        ("mini-swe-agent==2.4.6",),
        ("-m", "minisweagent.run.mini", "-m", "openai/gpt", "-y", "--exit-immediately", "-t"),
        peer="mini-swe-agent",
        environment={
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # or it asks a host of others for prices
            "MSWEA_CONFIGURED": "true",
            "MSWEA_COST_TRACKING": "ignore_errors",
        },
    ),
}
"""Name of its program, or of the package -> the agent."""


@dataclass(frozen=True)
class Ended:
    """The end of an agent's run; ``status`` is that of its process."""

    status: int
    output: str
    errors: str


def program(agent: str) -> str:
    """Return an agent's program, or the interpreter that runs it; installed if need be."""
    known = AGENTS[agent]
    if isinstance(known.packages, str):
        return f"{ensure_npm_peer(agent, known.packages)}/{agent}"
    return ensure_peer(known.peer, known.packages)


async def run_agent(
    agent: str,
    task: str,
    folder: Path,
    addresses: AgentAddresses,
    *,
    program: str,
    mode: str = "",
    seconds: float = 60.0,
) -> Ended:
    """Run an agent in ``folder/work`` with a ``HOME`` of its own, and kill what is left of it.

    Args:
        agent: of ``AGENTS``.
        task: its prompt.
        folder: for its files; made.
        addresses: of its model, and of its environment.
        program: as ``program`` gives it.
        mode: among its arguments.
        seconds: it is killed after them, and ``TimeoutError`` is raised.
    """
    known = AGENTS[agent]
    settings = agent_settings(agent, addresses)
    home, work = folder / "home", folder / "work"
    work.mkdir(parents=True)
    for name, text in settings.files.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    environment = {
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "NO_COLOR": "1",
        "PATH": "/usr/local/bin:" + os.defpath,
        "TERM": "dumb",
        **settings.environment,
        **known.environment,
    }
    arguments = [each.replace("{mode}", mode) for each in known.arguments]
    command = [program, *arguments, task]
    status = await _run(command, folder, environment, seconds)
    written = [(folder / name).read_text(errors="replace") for name in ("output", "errors")]
    return Ended(status, *written)


async def _run(
    command: Sequence[str], folder: Path, environment: Mapping[str, str], seconds: float
) -> int:
    with (folder / "output").open("wb") as output, (folder / "errors").open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=folder / "work",
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(seconds):
                return await process.wait()
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
