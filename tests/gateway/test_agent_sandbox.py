"""Sandboxes of agents: their session can be reached from inside, and nothing else."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from openenv_async.errors import AgentFailed
from openenv_async.gateway.agent_sandbox import sandbox
from openenv_async.gateway.agent_settings import AgentAddresses
from openenv_async.gateway.agents import CommandAgent
from openenv_async.server.run import listen
from tests.gateway.test_agents import SMALL, gateway_of, left_over, played, saying


def is_allowed() -> bool:
    tried = ["unshare", "--user", "--map-current-user", "--keep-caps", "--net", "true"]
    return shutil.which("unshare") is not None and not subprocess.run(tried, check=False).returncode


needs_namespaces = pytest.mark.skipif(not is_allowed(), reason="no namespaces of users here")


@needs_namespaces
async def test_an_agent_plays_from_inside() -> None:
    async with gateway_of(saying("1", "2", "end")) as gateway:
        agent = CommandAgent([*SMALL, "{prompt}"], gateway=gateway, place="sandbox")
        outcome = await played(agent)
    assert (outcome.status, outcome.episode_return) == ("completed", 3.0)
    assert outcome.trajectory.extra["agent"]["calls"] == 3
    assert left_over() == []


@needs_namespaces
async def test_nothing_else_can_be_reached_from_inside() -> None:
    with closing(listen("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        code = (
            "import os, socket, sys, urllib.request\n"
            "status = open('/proc/self/status').read()\n"
            "effective = [line for line in status.splitlines() if line.startswith('CapAmb')]\n"
            "print(effective[0].split()[1].strip('0') or 'no capabilities')\n"
            f"for host, port in (('127.0.0.1', {port}), ('192.0.2.1', 80), ('1.1.1.1', 53)):\n"
            "    try:\n"
            "        socket.create_connection((host, port), 5)\n"
            "        print('reached', host)\n"
            "    except OSError as exc:\n"
            "        print(host, exc)\n"
            "urllib.request.urlopen(os.environ['ANTHROPIC_BASE_URL'] + '/healthz', timeout=10)\n"
            "print('the gateway is there')\n"
        )
        async with gateway_of(saying("1")) as gateway:
            command = [sys.executable, "-c", code]
            outcome = await played(CommandAgent(command, gateway=gateway, place="sandbox"))
    said = outcome.trajectory.extra["agent"]["output"]
    assert "reached" not in said
    assert said.splitlines()[0] == "no capabilities"
    assert said.endswith("the gateway is there\n")


@needs_namespaces
async def test_its_exit_code_is_that_of_its_program() -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    for program, told in (("import sys; sys.exit(7)", "exit code 7"), (code, "exit code 137")):
        async with gateway_of(saying("1")) as gateway:
            agent = CommandAgent([sys.executable, "-c", program], gateway=gateway, place="sandbox")
            with pytest.raises(AgentFailed, match=told):
                await played(agent)


@needs_namespaces
async def test_a_program_that_is_not_there_was_not_started() -> None:
    async with gateway_of(saying("1")) as gateway:
        agent = CommandAgent("no-such-program", gateway=gateway, place="sandbox")
        with pytest.raises(AgentFailed, match=r"not started in its sandbox: .*no-such-program"):
            await played(agent)


async def test_a_system_without_namespaces_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    addresses: Any = AgentAddresses(
        openai_base_url="http://127.0.0.1:81/v1", anthropic_base_url="http://127.0.0.1:81", key="k"
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    async with sandbox(addresses, tmp_path) as own:
        with pytest.raises(AgentFailed, match="util-linux"):
            own.command(["true"])
        with pytest.raises(AgentFailed, match="not started in its sandbox: not permitted"):
            own.check_started("unshare failed\nnot permitted\n")


async def test_hosts_with_the_same_port_have_ports_of_their_own(tmp_path: Path) -> None:
    addresses = AgentAddresses(
        openai_base_url="http://127.0.0.1:8000/v1",
        anthropic_base_url="http://127.0.0.1:8000",
        key="k",
        mcp_url="http://environments.example:8000/mcp/handle",
    )
    async with sandbox(addresses, tmp_path) as own:
        assert own.addresses.openai_base_url == "http://127.0.0.1:8000/v1"
        assert own.addresses.anthropic_base_url == "http://127.0.0.1:8000"
        assert own.addresses.mcp_url == "http://127.0.0.1:8001/mcp/handle"
        with socket.socket(socket.AF_UNIX) as way:
            way.connect(str(tmp_path / "8000.sock"))
    secure = AgentAddresses(
        openai_base_url="https://models.example/v1", anthropic_base_url="", key="k"
    )
    with pytest.raises(AgentFailed, match="plain HTTP"):
        async with sandbox(secure, tmp_path):
            pass
