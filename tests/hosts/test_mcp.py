"""MCP servers as environments: episodes apart, calls judged, ends clean, bad servers told."""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from openenv_async import EngineOptions, EnvClient, GenericEnvClient, Timeouts, connect, serve
from openenv_async.errors import (
    DeadlineExceeded,
    EnvironmentDied,
    EnvironmentRaised,
    EnvironmentStartFailed,
    EpisodeEnded,
    InvalidAction,
    InvalidOption,
)
from openenv_async.guard import own_guard, remove_folder
from openenv_async.hosts.mcp import McpEpisode, McpHost, McpServer, _machine, host_of
from openenv_async.hosts.mcp_tools import McpMedia, McpObservation
from openenv_async.rollouts.tools import ActionTools
from openenv_async.spec import EnvironmentSpec
from openenv_async.targets.discovery import find_target
from openenv_async.targets.resolve import resolve
from tests.helpers import until
from tests.mcp_server import PNG

SCRIPT = Path(__file__).parents[1] / "mcp_server.py"
HERE = "tests.hosts.test_mcp"
JUDGED: list[McpEpisode] = []


def command(*words: str) -> str:
    return shlex.join([sys.executable, "-I", "-S", str(SCRIPT), *words])


def spec(*words: str, **params: Any) -> EnvironmentSpec:
    return find_target(f"mcp:{command(*words)}", params)


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"tool_name": name, "arguments": arguments}


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def episodes() -> list[Path]:
    return sorted(own_guard().folder.iterdir())


# -- reward functions -----------------------------------------------------------------------------


def judge(episode: McpEpisode) -> float | None:
    """Judge by the file that the episode left, once nothing can write to it."""
    JUDGED.append(episode)
    assert episode.folder is not None
    memo = episode.folder / "memo.txt"
    return float(memo.exists() and memo.read_text() == episode.task.get("wanted"))


async def judge_later(episode: McpEpisode) -> float | None:
    await asyncio.sleep(0)
    return None if episode.answer is None else float(episode.answer["answer"])


def judge_wrongly(episode: McpEpisode) -> float:
    raise RuntimeError("no such table")


# -- episodes -------------------------------------------------------------------------------------


async def test_results_are_observations_and_the_answer_ends_the_episode() -> None:
    async with connect(spec()) as env:
        first = await env.reset()
        assert first.observation == McpObservation("Mind the memo.")
        assert first.reward is None
        told = [(await env.step(call(name))).observation for name in ("picture", "numbers", "fail")]
        assert told[0] == McpObservation("look", media=[McpMedia("image/png", PNG)])
        assert told[1] == McpObservation("several", structured={"numbers": [1, 2]})
        assert told[2] == McpObservation("it did not work", is_error=True)
        state = await env.state()
        assert (state.server, state.revision) == ("habits 1", "2025-06-18")
        assert (state.steps, state.max_steps, state.log) == (3, 100, "first words")
        assert state.tools[0] == "write"
        assert state.tools[-1] == "submit"
        last = await env.step(call("submit", answer="42"))
        assert (last.terminated, last.truncated, last.reward) == (True, False, None)
        with pytest.raises(EpisodeEnded):
            await env.step(call("read"))


async def test_a_server_of_the_revision_without_sessions() -> None:
    async with connect(spec("modern")) as env:
        await env.reset()
        assert (await env.step(call("write", text="a"))).observation.text == "written"
        state = await env.state()
        assert (state.server, state.revision) == ("habits 1", "2026-07-28")


async def test_each_episode_has_a_server_and_a_folder_to_itself() -> None:
    before = episodes()
    host = spec()
    host.check()
    assert episodes() == before  # what was started for the tools is gone
    async with connect(host) as one, connect(host) as other:
        await asyncio.gather(one.reset(), other.reset())
        await one.step(call("write", text="mine"))
        assert (await one.step(call("read"))).observation.text == "mine"
        assert (await other.step(call("read"))).observation.text == "nothing"
        assert len(episodes()) == len(before) + 2
        await one.reset()
        assert (await one.step(call("read"))).observation.text == "nothing"
        assert len(episodes()) == len(before) + 2
    await until(lambda: episodes() == before)


async def test_the_server_is_given_a_clean_environment_and_what_the_operator_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SECRET_OF_OURS", "1")
    monkeypatch.setenv("GIVEN_BY_NAME", "2")
    monkeypatch.setenv("OPENENV_TOKEN", "3")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").write_text("x")
    host = spec(
        *("{folder}/a", "there", "not-there", "--in={home}", "{here}"),
        pass_env=["GIVEN_BY_NAME", "NOT_SET"],
        env={"MEMORY_FILE_PATH": "{folder}/memory.json"},
    )
    async with connect(host) as env:
        await env.reset()
        told = json.loads((await env.step(call("where"))).observation.text)
    work = Path(told["cwd"])
    assert told["args"] == [
        *(f"{work}/a", str(tmp_path / "there"), "not-there"),
        *(f"--in={work.parent}/home", str(tmp_path)),
    ]
    environ = told["env"]
    assert environ["HOME"] == f"{work.parent}/home"
    assert environ["TMPDIR"] == f"{work.parent}/tmp"
    assert environ["MEMORY_FILE_PATH"] == f"{work}/memory.json"
    assert environ["GIVEN_BY_NAME"] == "2"
    assert environ["PATH"] == os.environ["PATH"]
    assert not {"SECRET_OF_OURS", "OPENENV_TOKEN", "NOT_SET", "USER"} & {*environ}


async def test_a_template_is_copied_into_each_folder(tmp_path: Path) -> None:
    (tmp_path / "memo.txt").write_text("before ")
    async with connect(spec(template=str(tmp_path))) as env:
        for _ in range(2):
            await env.reset()
            await env.step(call("write", text="after"))
            assert (await env.step(call("read"))).observation.text == "before after"
    assert (tmp_path / "memo.txt").read_text() == "before "


async def test_a_folder_is_removed_after_the_thread_that_fills_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copying, go_on = threading.Event(), threading.Event()
    done: list[str] = []

    def copy(source: str, into: Path, symlinks: bool) -> None:
        copying.set()
        go_on.wait(30)
        done.append("copied")
        into.mkdir(parents=True)

    def remove(folder: Path) -> None:
        done.append("removed")
        remove_folder(folder)

    monkeypatch.setattr("openenv_async.hosts.mcp.shutil.copytree", copy)
    monkeypatch.setattr("openenv_async.hosts.mcp.remove_folder", remove)
    before = episodes()
    host = McpHost(command(), template=str(tmp_path))
    starting = asyncio.create_task(host.reset())
    await asyncio.to_thread(copying.wait, 30)
    server = host._server
    assert server is not None
    starting.cancel()
    await until(lambda: server._place is None)
    await asyncio.get_running_loop().run_in_executor(_machine().threads, int)
    go_on.set()  # now that the removal is under way
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert done == ["copied", "removed"]
    assert episodes() == before


# -- ends and rewards -----------------------------------------------------------------------------


async def test_the_reward_function_sees_the_episode_as_it_was_left(tmp_path: Path) -> None:
    tasks = tmp_path / "tasks.jsonl"
    rows = [{"id": "one", "prompt": "Write b twice.", "wanted": "bb"}]
    tasks.write_text("".join(json.dumps(row) + "\n" for row in rows))
    host = spec(tasks=str(tasks), private=["wanted"], reward=f"{HERE}:judge")
    JUDGED.clear()
    async with connect(host) as env:
        listed = await (await env.tasks()).get("tasks", 0)
        assert dict(listed.data) == {"prompt": "Write b twice."}
        first = await env.reset(task_id="one")
        assert first.observation.text == "Write b twice."
        assert (await env.step(call("write", text="b", times=2))).reward is None
        last = await env.step(call("submit", answer="done"))
        assert (last.terminated, last.reward) == (True, 1.0)
    (episode,) = JUDGED
    assert episode.task == {"prompt": "Write b twice.", "wanted": "bb"}
    assert episode.answer == {"answer": "done"}
    assert [each.tool_name for each in episode.calls] == ["write", "submit"]
    assert episode.calls[0].arguments == {"text": "b", "times": 2}
    assert episode.calls[0].result == McpObservation("written")
    assert episode.folder is not None
    assert not episode.folder.exists()


async def test_without_a_name_the_seed_chooses_the_task(tmp_path: Path) -> None:
    for name, rows in (("none", []), ("some", [{"prompt": p, "wanted": p} for p in "abcdefgh"])):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    splits = {"none": str(tmp_path / "none"), "some": str(tmp_path / "some")}
    host = spec(tasks=splits, private=["wanted"], reward=f"{HERE}:judge")
    async with connect(host) as env:
        seen = [(await env.reset(seed=seed)).observation.text for seed in (1, 2, 3, 4, 1)]
        assert seen[0] == seen[-1]
        assert len(set(seen)) > 1
        await env.step(call("write", text=seen[-1]))
        assert (await env.step(call("submit", answer="done"))).reward == 1.0
        assert (await env.reset(prompt="Of my own.")).observation.text == "Of my own."


async def test_steps_that_run_out_truncate_and_are_judged() -> None:
    async with connect(spec(max_steps=2, reward=f"{HERE}:judge")) as env:
        await env.reset(prompt="Write a.", wanted="a")
        assert not (await env.step(call("write", text="a"))).done
        last = await env.step(call("read"))
        assert (last.terminated, last.truncated, last.reward) == (False, True, 1.0)


async def test_no_reward_is_none() -> None:
    async with connect(spec(max_steps=1, reward=f"{HERE}:judge_later")) as env:
        await env.reset()
        assert (await env.step(call("read"))).reward is None
        await env.reset()
        assert (await env.step(call("submit", answer="0.5"))).reward == 0.5


async def test_a_reward_function_that_raises_is_an_error_and_no_reward() -> None:
    async with connect(spec(max_steps=1, reward=f"{HERE}:judge_wrongly")) as env:
        await env.reset()
        with pytest.raises(EnvironmentRaised, match="no such table"):
            await env.step(call("read"))


async def test_a_tool_of_the_servers_own_may_be_the_answer() -> None:
    async with connect(spec(answer="read")) as env:
        await env.reset()
        assert "submit" not in (await env.state()).tools
        last = await env.step(call("read"))
        assert (last.terminated, last.observation.text) == (True, "nothing")
    async with connect(spec(answer=None)) as env:
        await env.reset()
        with pytest.raises(InvalidAction, match="there is no tool 'submit'"):
            await env.step(call("submit", answer="x"))


async def test_a_task_has_the_column_that_is_shown() -> None:
    async with connect(spec(prompt="question", max_steps=1)) as env:
        first = await env.reset(question="Why?", prompt=1)
        assert first.observation.text == "Why?"
        with pytest.raises(InvalidOption, match="no text in the column 'question'"):
            await env.reset(prompt="Why?")


# -- actions --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (call("write", text=1), r"arguments of write are wrong: \$\.text is int 1, not string"),
        (call("write"), "lacks 'text'"),
        (call("write", text="a", other=1), "'other', which is not declared"),
        (call("write", text="a" * 41), "41 characters"),
        (call("writ", text="a"), "there is no tool 'writ': there are write, read"),
        (call("submit"), "lacks 'answer'"),
        ({"tool_name": "read", "argument": {}}, "not with 'argument'"),
        ({"tool_name": "read", "arguments": []}, 'an action is {"tool_name"'),
        ({"arguments": {}}, 'an action is {"tool_name"'),
        ({"type": "list_tools", "tool_name": "read"}, "of the type call_tool"),
        ([], "Expected `object`, got `array`"),
    ],
)
async def test_what_does_not_fit_is_refused_before_the_call(action: Any, message: str) -> None:
    async with connect(_shared()) as env:
        await env.reset()
        with pytest.raises(InvalidAction, match=message):
            await env.step(action)
        assert (await env.state()).steps == 0
        assert (await env.step({"type": "call_tool", "tool_name": "read"})).observation.text == (
            "nothing"
        )


def _shared() -> EnvironmentSpec:
    return spec()


async def test_arguments_that_the_server_refuses_are_a_mistake() -> None:
    async with connect(spec()) as env:
        await env.reset()
        with pytest.raises(InvalidAction, match="refuse refuses its arguments: not like this"):
            await env.step(call("refuse"))


def test_the_schema_of_actions_has_each_tools_own() -> None:
    host = spec("no-references")
    members = {each["title"]: each for each in host.schema["action"]["anyOf"]}
    assert [*members][-1] == "submit"
    assert members["write"]["description"] == "Write the memo."
    arguments = members["write"]["properties"]["arguments"]
    assert arguments["properties"]["text"] == {"$ref": "#/$defs/write.Text"}
    assert host.schema["action"]["$defs"]["write.Text"] == {"type": "string", "maxLength": 40}


def test_agents_are_offered_the_servers_tools_as_they_are() -> None:
    host = spec()
    tools = {tool.name: tool for tool in host.tools("act")}
    assert tools["write"].parameters["$defs"] == {"Text": {"type": "string", "maxLength": 40}}
    assert tools["write"].action({"text": "a"}) == call("write", text="a")
    made = ActionTools(host.schema["action"])
    assert made.names == [*tools]
    asked = {"function": {"name": "write", "arguments": '{"text": "a"}'}}
    assert made.of_call(asked) == call("write", text="a")


async def test_a_list_of_tools_that_changes_is_told_and_counts() -> None:
    async with connect(spec()) as env:
        await env.reset()
        assert (await env.step(call("read"))).observation.tools is None
        changed = (await env.step(call("change"))).observation
        assert changed.tools is not None
        assert changed.tools[-1] == "extra"
        again = (await env.step(call("extra"))).observation
        assert (again.text, again.tools) == ("extra was called", None)


@pytest.mark.parametrize("habit", ["tells-nothing", "modern"])
async def test_a_server_that_tells_no_changes_is_asked(habit: str) -> None:
    async with connect(spec(habit)) as env:
        await env.reset()
        with pytest.raises(InvalidAction):
            await env.step(call("hidden"))
        assert (await env.step(call("grow"))).observation.tools is None
        found = (await env.step(call("hidden"))).observation
        assert found.text == "hidden was called"
        assert found.tools is not None


async def test_what_the_server_asks_is_answered_by_refusals() -> None:
    async with connect(spec()) as env:
        await env.reset()
        ping, sampling = json.loads((await env.step(call("ask"))).observation.text)
        assert (ping["id"], ping["result"]) == ("q", {})
        assert (sampling["id"], sampling["error"]["code"]) == (7, -32601)
        assert (await env.state()).log == "first words\ninfo: asked"


# -- what only the operator may say ----------------------------------------------------------------


async def test_no_client_has_a_part_in_what_is_run(tmp_path: Path) -> None:
    marker = tmp_path / "made-by-a-client"
    evil = f"touch {marker}"
    async with serve(spec("{folder}")) as url:
        async with GenericEnvClient(url) as env:
            words: dict[str, Any] = {
                "server": evil,
                "command": evil,
                "env": {"PATH": evil},
                "template": "/etc",
            }
            await env.reset(prompt="{home}; " + evil, folder=evil, **words)
            told = json.loads((await env.step(call("where"))).observation["text"])
            assert told["args"] == [told["cwd"]]
            assert evil not in told["env"].values()
            for tool in ("$(touch x)", "write; touch x", "../write"):
                with pytest.raises(InvalidAction):
                    await env.step(call(tool, text="x"))
            await env.step(call("write", text="{home} $(id)"))
            assert (await env.step(call("read"))).observation["text"] == "{home} $(id)"
        for option in ("server", "env", "pass_env", "template", "reward", "tasks"):
            with pytest.raises(InvalidOption, match="takes no session option"):
                async with GenericEnvClient(url, options={option: evil}) as env:
                    await env.reset()
    assert not marker.exists()
    assert McpHost.session_options == frozenset()


async def test_clients_are_not_told_the_command() -> None:
    host = spec("--token", "hush")
    assert host.told_params == {"server": "McpServer"}
    assert "hush" not in resolve(f"mcp:{command('--token', 'hush')}").label


def test_the_command_is_not_said_twice() -> None:
    with pytest.raises(InvalidOption, match="'server' is what the target itself says"):
        spec(server="cat")


# -- bad servers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["exits"], "it exited with code 4: there is no such repository"),
        (["odd"], "it speaks MCP '1999-01-01', which is not known here"),
        (["hangs"], r"did not shake hands within 0\.5 s \(start_timeout\): waiting for a lock"),
    ],
)
def test_a_server_that_does_not_start_says_why(words: list[str], message: str) -> None:
    before = episodes()
    timeout = 0.5 if words == ["hangs"] else 30.0
    with pytest.raises(EnvironmentStartFailed, match=message) as caught:
        spec(*words, start_timeout=timeout).check()
    assert caught.value.log_tail is not None
    assert caught.value.log_tail.startswith("first words")
    assert caught.value.exit_code == (4 if words == ["exits"] else caught.value.exit_code)
    assert episodes() == before


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("mcp:no-such-command-here --x", "there is no command 'no-such-command-here'"),
        ("mcp:./tests/none.sh", "there is no command './tests/none.sh'"),
        ("mcp:cat", "it refuses the handshake"),
        ("mcp:true", "it exited with code 0"),
    ],
)
def test_what_is_no_server_is_told(target: str, message: str) -> None:
    with pytest.raises(EnvironmentStartFailed, match=message):
        find_target(target).check()


async def test_a_start_that_fails_in_an_episode_is_told_to_the_client(tmp_path: Path) -> None:
    script = tmp_path / "server.py"
    script.write_bytes(SCRIPT.read_bytes())
    host = find_target(f"mcp:{shlex.join([sys.executable, '-I', '-S', str(script)])}")
    host.check()
    script.write_text("raise SystemExit('out of order')")
    async with connect(host) as env:
        with pytest.raises(EnvironmentStartFailed, match="out of order") as caught:
            await env.reset()
        assert caught.value.log_tail == "out of order"
        script.write_bytes(SCRIPT.read_bytes())
        await env.reset()
        assert (await env.step(call("read"))).observation.text == "nothing"


async def test_a_server_that_dies_ends_the_episode_and_not_the_session() -> None:
    async with connect(spec()) as env:
        await env.reset()
        with pytest.raises(EnvironmentDied, match="exited with code 3: it died of it") as caught:
            await env.step(call("die"))
        assert (caught.value.exit_code, caught.value.retryable) == (3, True)
        assert caught.value.log_tail == "first words\nit died of it"
        with pytest.raises(EpisodeEnded, match=r"call reset\(\) first"):
            await env.step(call("read"))
        await env.reset()
        assert (await env.step(call("read"))).observation.text == "nothing"


async def test_a_tool_that_hangs_meets_the_deadline_and_is_cancelled() -> None:
    options = EngineOptions(timeouts=Timeouts(step=0.3))
    async with serve(spec(), options=options) as url, GenericEnvClient(url) as env:
        await env.reset()
        with pytest.raises(DeadlineExceeded):
            await env.step(call("hang"))
        # The server said that it was cancelled, so the episode goes on.
        assert (await env.step(call("read"))).observation["text"] == "nothing"


async def test_a_cancelled_call_without_an_end_lets_no_other_follow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("openenv_async.hosts.mcp_client._CANCEL_GRACE", 0.1)
    options = EngineOptions(timeouts=Timeouts(step=0.4))
    async with (
        serve(spec("ignores-cancel"), options=options) as url,
        GenericEnvClient(url) as env,
    ):
        await env.reset()
        with pytest.raises(DeadlineExceeded):
            await env.step(call("hang"))
        with pytest.raises(
            EnvironmentRaised, match="'hang' was cancelled and its end is not known"
        ):
            await env.step(call("read"))
        await env.reset()
        assert (await env.step(call("read"))).observation["text"] == "nothing"


async def test_a_huge_result_is_bounded() -> None:
    async with connect(spec(max_result_size=20_000)) as env:
        await env.reset()
        assert len((await env.step(call("big", size=15_000))).observation.text) == 15_000
        for size in (30_000, 3_000_000):
            result = (await env.step(call("big", size=size))).observation
            assert result.is_error
            assert result.text == "the result is larger than 20000 bytes (max_result_size)"
        assert (await env.step(call("read"))).observation.text == "nothing"


async def test_noise_on_the_output_is_passed_over_and_kept() -> None:
    async with connect(spec("noisy")) as env:
        await env.reset()
        assert (await env.step(call("read"))).observation.text == "nothing"
        log = (await env.state()).log.splitlines()
        assert sorted(log) == ["Welcome!", "[1, 2]", "first words", "{not json"]


# -- ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("habits", [[], ["ignores-term"]])
async def test_what_a_server_started_ends_with_the_episode(
    habits: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openenv_async.hosts.mcp_stdio._CLOSE_GRACE", 0.2)
    monkeypatch.setattr("openenv_async.hosts.mcp_stdio._TERM_GRACE", 0.2)
    async with connect(spec(*habits)) as env:
        await env.reset()
        pids = json.loads((await env.step(call("spawn"))).observation.text)
        assert all(map(alive, pids))
        await env.reset()
        assert not any(map(alive, pids))
        pids = json.loads((await env.step(call("spawn"))).observation.text)
    assert not any(map(alive, pids))


@pytest.mark.parametrize("workers", [[], ["--workers", "1"]])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_nothing_is_left_of_a_server_of_ours_that_ends(
    number: signal.Signals, workers: list[str]
) -> None:
    target = f"mcp:{command('ignores-term')}"
    words = ["-m", "openenv_async.cli", "serve", target, "--port", "0", "--json", *workers]
    ours = subprocess.Popen(  # noqa: ASYNC220 - nothing else runs in this loop
        [sys.executable, *words], stdout=subprocess.PIPE, text=True
    )
    assert ours.stdout is not None
    try:
        url = json.loads(await asyncio.to_thread(ours.stdout.readline))["url"]
        clients = [GenericEnvClient(url) for _ in range(2)]
        pids: list[int] = []
        folders: set[Path] = set()
        for env in clients:
            await env.reset()
            pids += json.loads((await env.step(call("spawn"))).observation["text"])
            told = json.loads((await env.step(call("where"))).observation["text"])
            folders.add(Path(told["cwd"]).parents[1])
        assert all(map(alive, pids))
        assert all(folder.is_dir() for folder in folders)
        ours.send_signal(number)
        await asyncio.to_thread(ours.wait, 30)
        await until(lambda: not any(map(alive, pids)), 20)
        await until(lambda: not any(folder.exists() for folder in folders), 20)
        for env in clients:
            await env.close()
    finally:
        ours.kill()
        ours.communicate()


# -- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"reward": "no_such_module:judge"}, "cannot be imported: ModuleNotFoundError"),
        ({"reward": f"{HERE}:JUDGED"}, "must name a function as module:function"),
        ({"reward": HERE}, "must name a function as module:function"),
        ({"max_steps": 0}, "max_steps must be an integer of at least 1"),
        ({"max_result_size": True}, "max_result_size must be an integer"),
        ({"start_timeout": 0}, "start_timeout must be a number of seconds"),
        ({"start_timeout": "x"}, "start_timeout must be a number of seconds"),
        ({"template": "/no/such/folder"}, "there is no folder '/no/such/folder'"),
        ({"pass_env": "OPENENV_TOKEN"}, "is this server's own token"),
        ({"pass_env": [1]}, "pass_env must be a list of names"),
        ({"env": {"A": 1}}, "env must be texts by name"),
        ({"token_env": "NO_SUCH_VARIABLE"}, "is not set"),
        ({"prompt": ""}, "prompt must be a text"),
        ({"colour": 1}, "cannot be built with the argument 'colour'"),
    ],
)
def test_arguments_that_are_wrong(params: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        spec(**params).check()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("npx -y @modelcontextprotocol/server-memory", "server-memory"),
        ("uvx mcp-server-fetch", "mcp-server-fetch"),
        ("uvx mcp-server-git@2026.1 --repository {folder}", "mcp-server-git"),
        ("docker run -i --rm mcp/fetch", "fetch"),
        ("python path/to/server.py --x", "server"),
        ("python -c 'import this'", "python"),
        ("https://user:secret@host.example/mcp?key=secret", "host.example"),
    ],
)
def test_an_environment_is_called_by_what_is_run(text: str, name: str) -> None:
    hosted = host_of(text)
    assert (hosted.source, hosted.name) == (McpHost, name)


@pytest.mark.parametrize("text", ["'", "ftp://a.example", "http://", ""])
def test_texts_that_name_no_server(text: str) -> None:
    with pytest.raises(InvalidOption):
        McpServer.of(text)


async def test_it_runs_in_worker_processes_and_pools() -> None:
    target = resolve(f"mcp:{command()}", params={"max_steps": 1})
    async with target.sessions(server={"arguments": ["--workers=1"]}) as sessions:
        client: EnvClient[Any, Any, Any] = sessions.session()
        async with client as env:
            await env.reset()
            assert (await env.step(call("read"))).truncated
