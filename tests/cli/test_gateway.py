"""``openenv-async gateway``: its address, its sessions over a restart, and its end."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.cli.commands import invoke, one_line, started
from tests.model_server import ModelServerProcess

TOKEN = "admin-token"


@pytest.fixture
def token(tmp_path: Path) -> str:
    path = tmp_path / "token.txt"
    path.write_text(TOKEN)
    return str(path)


def asked(about: dict[str, Any], key: str, path: str, body: Any) -> httpx.Response:
    return httpx.post(
        f"{about['url']}{path}", json=body, headers={"authorization": f"Bearer {key}"}
    )


def read(about: dict[str, Any], path: str) -> httpx.Response:
    return httpx.get(f"{about['url']}{path}", headers={"authorization": f"Bearer {TOKEN}"})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_sessions_go_on_with_the_same_journal(
    token: str, tmp_path: Path, number: signal.Signals
) -> None:
    hi = {"model": "any", "messages": [{"role": "user", "content": "hi"}]}
    journal = tmp_path / "calls"
    async with ModelServerProcess("--shape", "vllm", "--answer", "hello") as engine:
        command = (
            "gateway", "--engine", engine.url, "--token-file", token, "--port", "0", "--json",
            "--journal", str(journal), "--prices", "1,2",
        )  # fmt: skip
        with started(*command) as process:
            assert process.stdout is not None
            about = json.loads(process.stdout.readline())
            assert about["pid"] == process.pid
            assert about["engines"] == [engine.url]
            assert about["level"] == "tokens"
            assert about["journal"] == str(journal)
            opened = asked(about, TOKEN, "/sessions", {"budget": {"cost": 1}}).json()
            answer = asked(about, opened["key"], "/v1/chat/completions", hi)
            assert answer.json()["choices"][0]["message"]["content"] == "hello"
            process.send_signal(number)
            assert process.wait(20) == 0
            assert process.stdout.read() == ""
            assert process.stderr is not None
            assert process.stderr.read() == ""
        with started(*command) as process:
            assert process.stdout is not None
            about = json.loads(process.stdout.readline())
            assert about["sessions"] == 1
            calls = read(about, f"/sessions/{opened['id']}/calls")
            [record] = [json.loads(line) for line in calls.text.splitlines()]
            assert record["answer"]["text"] == "hello"
            assert len(record["answer"]["tokens"]["completion_ids"]) == len("hello")
            assert asked(about, opened["key"], "/v1/chat/completions", hi).status_code == 200


async def test_one_line_says_where_it_is(token: str) -> None:
    async with ModelServerProcess("--answer", "hello") as engine:
        command = ("gateway", "--engine", engine.url, "--token-file", token, "--port", "0")
        with started(*command, "--level", "text") as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("gateway at http://127.0.0.1:")
            assert line.endswith(f" over {engine.url} (scripted-1, text), calls in memory alone\n")
            process.terminate()
            assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([], 2, "--engine"),
        (["--engine", "http://127.0.0.1:9/v1"], 2, "--token-file or OPENENV_TOKEN"),
        (["--engine", "http://127.0.0.1:9/v1", "--prices", "1"], 2, "PROMPT,COMPLETION"),
        (["--engine", "http://127.0.0.1:9/v1", "--prices", "1,inf"], 2, "PROMPT,COMPLETION"),
        (["--engine", "no-url", "--token-file", "{token}"], 2, "no-url"),
        (["--engine", "http://127.0.0.1:9/v1", "--token-file", "{token}"], 1, "127.0.0.1:9"),
    ],
)
def test_mistakes_are_one_line(
    token: str, arguments: list[str], code: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENENV_TOKEN", raising=False)
    done = invoke("gateway", *(each.format(token=token) for each in arguments))
    assert done.exit_code == code, done.output
    assert words in one_line(done.stderr)
