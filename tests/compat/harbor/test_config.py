"""``task.toml`` as Harbor's own reader takes it, what is refused, and variables."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from openenv_async.compat.harbor.config import (
    read_config,
    resolved_variables,
    unsupported,
)
from openenv_async.errors import InvalidTasks
from tests.compat.harbor.oracle import told

HERE = Path(__file__).parent
CORPUS: dict[str, str] = json.loads((HERE / "corpus.json").read_text("utf-8"))
RECORDED: dict[str, dict[str, Any] | None] = json.loads((HERE / "recorded.json").read_text("utf-8"))
DIFFERENT = {
    "hosts a url": "lists of hosts are refused when the task is to be played, whatever is in them",
    "package newline": "Harbor's expression lets a name end with a line",
    "timeout a bool": "true is not a number of seconds here",
}
"""The files that the two readers do not agree on, with the reason."""


def read(text: str) -> dict[str, Any] | None:
    try:
        return json.loads(json.dumps(told(read_config(text))))  # type: ignore[no-any-return]
    except InvalidTasks:
        return None


@pytest.mark.parametrize("name", sorted(CORPUS))
def test_files_are_taken_and_refused_as_by_harbor(name: str) -> None:
    assert (read(CORPUS[name]) == RECORDED[name]) == (name not in DIFFERENT)


@pytest.mark.skipif(
    "OPENENV_PEER_HARBOR" not in os.environ,
    reason="OPENENV_PEER_HARBOR names no interpreter (3.12) that has harbor==0.26.0",
)
def test_what_was_recorded_is_what_harbor_says() -> None:
    done = subprocess.run(
        [os.environ["OPENENV_PEER_HARBOR"], HERE / "oracle.py"],
        capture_output=True,
        timeout=120,
        check=True,
    )
    assert json.loads(done.stdout) == RECORDED


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[agent\n", "not TOML"),
        ('[environment]\ncpus = "many"', r"environment\.cpus: Expected `float \| null`"),
        ("[environment]\ncpus = inf", r"environment\.cpus = inf is not a finite number"),
        ('[environment]\nmemory = "2048"', r"environment\.memory = '2048' is not a size"),
        ('[environment]\nmemory = "1G"\nmemory_mb = 5', "leave one out"),
        ("[environment]\nallow_internet = 3", r"environment\.allow_internet: expected true"),
        ('[task]\nname = "alone"', r"task\.name = 'alone' is not a package's name"),
        ("[agent]\nallowed_hosts = []", r'agent\.network_mode = "allowlist"'),
        ("[[verifier.collect]]\n", r"verifier\.collect\[0\]: .*command"),
    ],
)
def test_a_refusal_names_the_key(text: str, said: str) -> None:
    with pytest.raises(InvalidTasks, match=said):
        read_config(text)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[[steps]]\nname = "a"', "steps"),
        ('[environment]\nos = "windows"', "environment.os"),
        ("[environment]\ncpus = 0", "environment.cpus"),
        ("[environment]\nmemory_mb = 0", "environment.memory_mb"),
        ("[environment]\ngpus = 1", "environment.gpus"),
        ('[environment.tpu]\ntype = "v4"\ntopology = "2x2"', "environment.tpu"),
        ('[[environment.mcp_servers]]\nname = "a"', "environment.mcp_servers"),
        ('[environment]\nnetwork_mode = "allowlist"', "environment.network_mode"),
        ('[agent]\nnetwork_mode = "no-network"', "agent.network_mode"),
        ('[verifier]\nnetwork_mode = "no-network"', "verifier.network_mode"),
        ("[verifier.environment]\ncpus = 1", "verifier.environment"),
        ('[verifier]\nenvironment_mode = "separate"', "verifier.environment_mode"),
        ('[[verifier.collect]]\ncommand = "x"\nservice = "db"', "verifier.collect"),
    ],
)
def test_what_cannot_be_had_is_named(text: str, key: str) -> None:
    (reason,) = unsupported(read_config(text))
    assert reason.startswith(f"{key} (")


def test_what_can_be_had_is_not_refused() -> None:
    assert unsupported(read_config(CORPUS["whole"])) == []
    same = '[environment]\nnetwork_mode = "no-network"\n[agent]\nnetwork_mode = "no-network"'
    assert unsupported(read_config(same)) == []


def test_variables_are_those_that_are_given_not_the_process_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SECRET", "of this process")
    given = {"A": "plain ${X}", "B": "${X}", "C": "${Y:-none}", "D": "${X:-none}", "E": "${Y:-}"}
    made = resolved_variables(given, {"X": "1"})
    assert made == {"A": "plain ${X}", "B": "1", "C": "none", "D": "1", "E": ""}
    with pytest.raises(InvalidTasks, match=r'the task needs the variable SECRET.*"SECRET"'):
        resolved_variables({"K": "${SECRET}"}, {"X": "1"})
