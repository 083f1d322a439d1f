"""``openenv-async serve``: the address that it announces, and the signals that end it."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from openenv_async import GenericEnvClient, serve
from tests.cli.commands import (
    COUNTING,
    HANGING,
    PROGRAM,
    ROOT,
    invoke,
    one_line,
    run,
    started,
)
from tests.rollouts.environments import Counting


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_serve_says_one_line_and_stops_at_a_signal(number: signal.Signals) -> None:
    with started("serve", COUNTING, "--port", "0", "--json", "--param", "goal=5") as process:
        assert process.stdout is not None
        about = json.loads(process.stdout.readline())
        assert about["pid"] == process.pid
        assert about["environment"] == "Counting"
        assert about["version"] == "1.0.0"
        async with GenericEnvClient(about["url"]) as env:
            await env.reset()
            assert not (await env.step({"amount": 4})).done
            process.send_signal(number)
            assert await asyncio.to_thread(process.wait, 20) == 0
        assert process.stdout.read() == ""
        assert process.stderr is not None
        assert process.stderr.read() == ""


def ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def test_serve_in_the_background_of_a_shell_ends_on_sigterm_alone() -> None:
    """SIGINT is ignored there from the start, and an interrupt is meant for others."""
    with subprocess.Popen(
        [*PROGRAM, "serve", COUNTING, "--port", "0", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        preexec_fn=ignore_interrupts,
    ) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["pid"] == process.pid
            process.send_signal(signal.SIGINT)
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(0.5)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_serve_names_the_address() -> None:
    with started("serve", COUNTING, "--port", "0", "--no-uvloop") as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("Counting 1.0.0 at http://127.0.0.1:")
        process.terminate()
        assert process.wait(20) == 0


async def test_settings_reach_the_server() -> None:
    with started(
        "serve", HANGING, "--port", "0", "--json", "--max-sessions", "3", "--step-timeout", "7",
        "--idle-timeout", "0",
    ) as process:  # fmt: skip
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        async with GenericEnvClient(url) as env:
            assert env.connection is not None
            server = env.connection.server
            assert server["max_sessions"] == 3
            assert server["timeouts"]["step"] == 7.0
            assert server["timeouts"]["idle"] is None


def test_agents_are_let_see_what_is_named() -> None:
    with started(
        "serve", COUNTING, "--port", "0", "--json", "--agent-access", "state",
        "--agent-access", "seed",
    ) as process:  # fmt: skip
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        body = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}
        begun = httpx.post(f"{url}/mcp", json=body)
        headers = {"mcp-session-id": begun.headers["mcp-session-id"]}
        listed = httpx.post(f"{url}/mcp", json={**body, "method": "tools/list"}, headers=headers)
        tools = {tool["name"]: tool for tool in listed.json()["result"]["tools"]}
        assert "state" in tools
        assert list(tools["reset"]["inputSchema"]["properties"]) == ["seed"]
    refused = invoke("serve", COUNTING, "--agent-access", "all")
    assert "is not one of" in one_line(refused.stderr)


async def test_an_environment_is_served_as_a_vector() -> None:
    with started(
        "serve", "gymnasium", "--param", "id=CartPole-v1", "--vector", "6", "--port", "0", "--json",
        "--param", "vectorization_mode=sync", "--param", "autoreset_mode=disabled",
    ) as process:  # fmt: skip
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        async with GenericEnvClient(url) as env:
            assert env.connection is not None
            assert env.connection.server["vector"] == {
                "num_envs": 6,
                "autoreset_mode": "disabled",
                "batch_size": 6,
            }
            result = await env.reset(seed=1)
            assert result.observation["observations"].shape == (6, 4)
        for command, code in (("rollout", 1), ("play", 2)):  # which play one environment
            done = run(command, url)
            assert done.returncode == code
            remedy = "step it with GymVectorEnv, or serve a single environment, without --vector"
            assert remedy in one_line(done.stderr)


def test_what_is_no_gymnasium_environment_has_no_vector() -> None:
    result = invoke("serve", "echo", "--vector", "6")
    assert result.exit_code == 2
    assert "not a Gymnasium environment" in " ".join(result.output.replace("│", " ").split())


async def test_a_port_that_is_taken_is_one_line() -> None:
    async with serve(Counting) as url:
        result = run("serve", COUNTING, "--port", url.rpartition(":")[2])
    assert result.returncode == 1
    assert "cannot listen" in one_line(result.stderr)


async def test_several_environments_each_at_a_path_of_its_own(tmp_path: Path) -> None:
    config = tmp_path / "environments.yaml"
    config.write_text(
        f"environments: {{five: {{target: '{COUNTING}', params: {{goal: 5}}, max_sessions: 3}}}}"
    )
    with started(
        "serve", "--config", str(config), f"b={HANGING}", "--port", "0", "--json"
    ) as process:
        assert process.stdout is not None
        about = json.loads(process.stdout.readline())
        urls = about["environments"]
        assert urls == {name: f"{about['url']}/{name}" for name in ("five", "b")}
        async with GenericEnvClient(urls["five"]) as env:
            await env.reset()
            assert (await env.step({"amount": 5})).done
            assert env.connection is not None
            assert env.connection.server["max_sessions"] == 3
        process.terminate()
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "Missing argument 'TARGET'"),
        (
            [COUNTING, COUNTING],
            f"served as Counting: give one of them a name, NAME={COUNTING}",
        ),
        ([COUNTING, HANGING, "--param", "goal=5"], "write them into --config"),
        ([f"health={COUNTING}", HANGING], "cannot be served as 'health'"),
    ],
)
def test_several_that_cannot_be_served(arguments: list[str], part: str) -> None:
    result = invoke("serve", *arguments)
    assert result.exit_code == 2
    assert part in one_line(result.stderr)
