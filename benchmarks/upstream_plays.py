"""Actions and data for upstream's folders: what `upstream_folders` plays on each.

A folder that is not named here gets actions drawn from its action's schema.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

__all__ = ["ACTIONS", "ENVIRON", "NEEDS", "Draw", "write_data"]

Draw = Callable[[random.Random, dict[str, Any]], Any]


def _tool(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "call_tool", "tool_name": name, "arguments": arguments}


def _of_field(name: str, key: str) -> Draw:
    """Return what draws one of the legal actions that an observation lists."""
    return lambda rng, seen: {key: rng.choice(seen.get(name) or [0])}


def _of(*actions: Any) -> Draw:
    return lambda rng, seen: rng.choice(actions)


def _codes(**more: Any) -> list[dict[str, Any]]:
    lines = [
        *("print(1 + 1)", "x = 5", "x", "print(x * 2)", "1 / 0", "(", "[i * i for i in range(4)]"),
        *("for i in range(3):\n    print(i)", "import os", "y = 'é' * 3\nprint(y)", "undefined"),
    ]
    return [{"code": line, **more} for line in lines]


def _move(rng: random.Random, seen: dict[str, Any]) -> Any:
    return {"action": rng.choice(["water", "break", "wait"]), "x": rng.randrange(16), "y": 3}


def _drive(rng: random.Random, seen: dict[str, Any]) -> Any:
    kind = rng.choice(["control", "observe", "brake_vehicle", "maintain_speed", "emergency_stop"])
    return {"action_type": kind, "throttle": rng.random(), "steer": rng.uniform(-1, 1)}


ACTIONS: Final[dict[str, Draw]] = {
    "agent_world_model_env": _of({"type": "list_tools"}, _tool("no_such_tool")),
    "atari_env": _of_field("legal_actions", "action_id"),
    "carla_env": _drive,
    "chat_env": _of(*({"tokens": list(range(n, n + 4))} for n in range(5))),
    "chess_env": _of_field("legal_moves", "move"),
    "coding_env": _of(*_codes()),
    "coding_tools_env": _of({"type": "list_tools"}, _tool("bash", command="ls"), _tool("ls")),
    "connect4_env": _of_field("legal_actions", "column"),
    "dipg_safety_env": _of(
        *({"llm_response": text} for text in ("", "I do not know", "conflict", "yes: no")),
        {"llm_response": "<|channel|>analysis<|message|>a<|end|>b<|end|>"},
    ),
    "dm_control_env": lambda rng, seen: {"values": [rng.uniform(-1, 1)]},
    "echo_env": _of(
        _tool("echo_message", message="hello"),
        _tool("echo_with_length", message="fünf"),
        _tool("no_such_tool"),
        _tool("echo_message"),
        {"type": "list_tools"},
    ),
    "finqa_env": _of(
        {"type": "list_tools"},
        _tool("get_descriptions", company_name="acme"),
        _tool("get_table_info", company_name="acme", table_name="sales"),
        _tool("sql_query", company_name="acme", table_name="sales", query="SELECT year FROM sales"),
        _tool("submit_answer", answer="7"),
    ),
    "finrl_env": lambda rng, seen: {"actions": [rng.uniform(-1, 1)]},
    "git_env": _of({"action_type": "list_repos"}, {"action_type": "nothing"}),
    "jupyter_env": _of({"type": "list_tools"}, _tool("add_and_execute_code_cell", code="1")),
    "maze_env": lambda rng, seen: {"action": rng.randrange(4)},
    "opencode_env": _of({"type": "list_tools"}, _tool("no_such_tool")),
    "openspiel_env": _of_field("legal_actions", "action_id"),
    "reasoning_gym_env": _of(*({"answer": text} for text in ("1", "7", "", "no idea"))),
    "repl_env": _of(*_codes(), {"code": "print(f'FINAL({x})')"}, {"code": "", "is_final": True}),
    "snake_env": lambda rng, seen: {"action": rng.randrange(3)},
    "sumo_rl_env": lambda rng, seen: {"phase_id": rng.randrange(2)},
    "tbench2_env": _of(
        {"action_type": "exec", "command": "echo $((6 * 7))"},
        {"action_type": "exec", "command": "cat instruction.md; exit 3"},
        {"action_type": "write_file", "file_path": "note.txt", "content": "x"},
        {"action_type": "view"},
        {"action_type": "nothing"},
        {"action_type": "close"},
    ),
    "terminus_env": _of({"type": "list_tools"}, _tool("terminal", command="ls")),
    "textarena_env": lambda rng, seen: {"message": f"[{rng.randrange(1, 21)}]"},
    "websearch_env": _of({"query": "a"}, {"query": "b", "temp_api_key": "none"}),
    "wildfire_env": _move,
}
"""The actions that are drawn for a folder, given a generator and the last observation."""

ENVIRON: Final[dict[str, dict[str, str]]] = {
    "chat_env": {"TOKENIZER_NAME": "{data}/tokenizer", "HF_HUB_OFFLINE": "1"},
    "finqa_env": {"FINQA_DATA_PATH": "{data}/finqa"},
    "git_env": {"WORKSPACE_DIR": "{data}/workspace"},
    "sumo_rl_env": {
        "SUMO_NET_FILE": "{folder}/nets/single-intersection/single-intersection.net.xml",
        "SUMO_ROUTE_FILE": "{folder}/nets/single-intersection/single-intersection.rou.xml",
        "SUMO_HOME": "{sumo}",
    },
    "tbench2_env": {
        "TB2_TASKS_DIR": "{data}/tbench2",
        "TB2_DEFAULT_TASK_ID": "sum",
        "TB2_OUTPUT_DIR": "{data}/runs",
    },
    "textarena_env": {"TEXTARENA_ENV_ID": "GuessTheNumber-v0", "TEXTARENA_DOWNLOAD_NLTK": "0"},
}
"""Settings of a folder: with these it needs neither the network nor another server."""

NEEDS: Final[dict[str, str]] = {
    "agent_world_model_env": "its worlds, fetched from the Hub, for more than refusals",
    "browsergym_env": "a browser and a page server",
    "calendar_env": "HTTP: it answers /reset and /step itself",
    "coding_tools_env": "a key of E2B, for more than refusals",
    "finrl_env": "finrl 0.3.7 with NumPy 1.24",
    "git_env": "a Gitea server, for more than refusals",
    "julia_env": "Julia",
    "jupyter_env": "a key of E2B, for more than refusals",
    "kernrl": "a GPU with Triton",
    "openapp_env": "a browser",
    "opencode_env": "a key of E2B, for more than refusals",
    "terminus_env": "a key of E2B, for more than refusals",
    "unity_env": "Unity's engine",
    "websearch_env": "a key of Serper, for more than refusals",
}
"""Needs of a folder beside packages."""


def write_data(place: Path) -> None:
    """Write the tokenizer, the tables and the task that some folders ask for."""
    tables = place / "finqa/input_companies/acme"
    tables.mkdir(parents=True, exist_ok=True)
    (tables / "sales.json").write_text(json.dumps([{"year": 2020, "sold": 7}]))
    about = {"acme": {"sales": {"description": "sales", "columns": ["year", "sold"]}}}
    (tables.parent / "tables_cleaned_all_companies.json").write_text(json.dumps(about))
    questions = place / "finqa/benchmark_questions"
    questions.mkdir(exist_ok=True)
    rows = [f"{n},How many in {n}?,acme,How many?,\\boxed{{{n}}},single,none" for n in range(5)]
    head = "id,user_query,company,question,answer,question_type,explanation"
    (questions / "finqa.csv").write_text("\n".join([head, *rows]))
    task = place / "tbench2/sum"
    (task / "tests").mkdir(parents=True, exist_ok=True)
    (task / "instruction.md").write_text("Add up.\n")
    (task / "task.toml").write_text("[verifier]\ntimeout_sec = 10\n")
    (place / "workspace").mkdir(exist_ok=True)
    tokenizer = place / "tokenizer"
    tokenizer.mkdir(exist_ok=True)
    words = {chr(97 + n): n for n in range(26)}
    model = {"type": "WordLevel", "vocab": words, "unk_token": "a"}
    whole: dict[str, Any] = {"version": "1.0", "added_tokens": [], "model": model}
    whole |= dict.fromkeys(("normalizer", "post_processor", "decoder", "truncation", "padding"))
    whole["pre_tokenizer"] = {"type": "Whitespace"}
    (tokenizer / "tokenizer.json").write_text(json.dumps(whole))
    template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template}
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(kind))
