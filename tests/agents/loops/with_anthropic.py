"""An agent of a few lines on the ``anthropic`` SDK; its arguments are as of ``with_openai.py``."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import anthropic

BASH = {
    "name": "bash",
    "description": "Run a line of shell.",
    "input_schema": {
        "type": "object",
        "properties": {"command": {"type": "string"}},
        "required": ["command"],
    },
}


def run(line: str) -> str:
    return subprocess.run(line, shell=True, capture_output=True, text=True, check=False).stdout


def messages(client: Any, task: str, *, is_streamed: bool) -> str:
    history: list[Any] = [{"role": "user", "content": task}]
    while True:
        asked = {"model": "claude", "messages": history, "tools": [BASH], "max_tokens": 1000}
        if is_streamed:
            with client.messages.stream(**asked) as stream:
                message = stream.get_final_message()
        else:
            message = client.messages.create(**asked)
        history.append(
            {
                "role": "assistant",
                "content": [block.model_dump(exclude_none=True) for block in message.content],
            }
        )
        calls = [block for block in message.content if block.type == "tool_use"]
        if not calls:
            return "".join(block.text for block in message.content if block.type == "text")
        results = [
            {"type": "tool_result", "tool_use_id": call.id, "content": run(call.input["command"])}
            for call in calls
        ]
        history.append({"role": "user", "content": results})


if __name__ == "__main__":
    mode, task = sys.argv[1:]
    print(messages(anthropic.Anthropic(), task, is_streamed=mode.endswith("-streamed")))  # noqa: T201
