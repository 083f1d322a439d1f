"""The far side of hosted tasksets, in the interpreter where it runs: what it loads and refuses."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from openenv_async.hosts import verifiers_bridge
from openenv_async.hosts.verifiers_bridge import Episode, completion, told_request
from tests.peers import VERIFIERS, ensure_peer

HERE = Path(__file__).parent
CASES: list[tuple[dict[str, Any], list[Any]]] = [
    ({"module": "hosted_sums"}, [20, "sum-19"]),
    ({"module": "hosted_sums", "name": "Endless", "limit": 30}, [30, "29"]),
    ({"module": "hosted_sums", "name": "Endless"}, ["shape", "limit=1000"]),
    (
        {"module": "hosted_sums", "name": "Nothing"},
        ["missing", "no taskset 'Nothing': it has Sums"],
    ),
    ({"module": "hosted_two"}, ["shape", "several agents (asker, answerer)"]),
    ({"module": "hosted_game", "config": {"count": 3}}, [3, "2"]),
    ({"module": "hosted_game", "config": {"colour": 1}}, ["raised", "colour"]),
    ({"module": "json"}, ["missing", "defines no verifiers.v1.Taskset"]),
]


def test_each_taskset_is_loaded_or_refused_with_the_reason() -> None:
    python = ensure_peer("verifiers", VERIFIERS)
    done = subprocess.run(
        [python, str(HERE / "verifiers_peer.py"), "load", verifiers_bridge.__file__],
        input=json.dumps([settings for settings, _ in CASES]),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(HERE / "tasksets")},
    )
    for (settings, (first, second)), told in zip(CASES, json.loads(done.stdout), strict=True):
        assert told[0] == first, (settings, told)
        assert second in told[1], (settings, told)


def test_an_action_is_a_completion() -> None:
    call = {"name": "look", "arguments": '{"at": 3}', "id": None}
    made = completion({"content": "see", "tool_calls": [call, {**call, "id": "mine"}]})
    (choice,) = made["choices"]
    assert choice["finish_reason"] == "tool_calls"
    first, second = choice["message"]["tool_calls"]
    assert first["function"] == {"name": "look", "arguments": '{"at": 3}'}
    assert first["id"].startswith("call_")
    assert second["id"] == "mine"
    plain = completion({"content": "", "tool_calls": []})["choices"][0]
    assert (plain["finish_reason"], plain["message"]["content"]) == ("stop", "")
    assert "tool_calls" not in plain["message"]


def test_only_what_is_new_of_a_conversation_is_told() -> None:
    episode = Episode()
    question, answer, more = ({"role": role, "content": role} for role in ("user", "me", "tool"))
    assert told_request({"messages": [question]}, episode) == {
        "messages": [question],
        "continues": False,
        "tools": [],
    }
    again = {**question, "name": None}
    told = told_request({"messages": [again, answer, more], "tools": [1]}, episode)
    assert told == {"messages": [more], "continues": True, "tools": [1]}
    assert told_request({"messages": [more]}, episode)["continues"] is False
