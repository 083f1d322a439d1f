"""An agent of a few lines on the ``openai`` SDK: ``with_openai.py MODE TASK``; runs in its peer."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import openai

BASH = {
    "name": "bash",
    "description": "Run a line of shell.",
    "parameters": {
        "type": "object",
        "properties": {"command": {"type": "string"}},
        "required": ["command"],
    },
}


def run(arguments: str) -> str:
    line = json.loads(arguments)["command"]
    return subprocess.run(line, shell=True, capture_output=True, text=True, check=False).stdout


def chat(client: Any, task: str, *, is_streamed: bool) -> str:
    messages: list[Any] = [{"role": "user", "content": task}]
    tools = [{"type": "function", "function": BASH}]
    while True:
        asked = {"model": "gpt", "messages": messages, "tools": tools}
        if is_streamed:
            with client.chat.completions.stream(**asked) as stream:
                message = stream.get_final_completion().choices[0].message
        else:
            message = client.chat.completions.create(**asked).choices[0].message
        messages.append(message.model_dump(exclude_none=True, exclude={"parsed"}))
        if not message.tool_calls:
            return str(message.content)
        for call in message.tool_calls:
            result = run(call.function.arguments)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})


def responses(client: Any, task: str, *, is_streamed: bool) -> str:
    items: list[Any] = [{"role": "user", "content": task}]
    tools = [{"type": "function", **BASH}]
    while True:
        asked = {"model": "gpt", "input": items, "tools": tools, "store": False}
        if is_streamed:
            with client.responses.stream(**asked) as stream:
                answer = stream.get_final_response()
        else:
            answer = client.responses.create(**asked)
        calls = [item for item in answer.output if item.type == "function_call"]
        items += [item.model_dump(exclude_none=True) for item in answer.output]
        if not calls:
            return str(answer.output_text)
        for call in calls:
            result = run(call.arguments)
            items.append(
                {"type": "function_call_output", "call_id": call.call_id, "output": result}
            )


if __name__ == "__main__":
    mode, task = sys.argv[1:]
    dialect, _, streamed = mode.partition("-")
    play = {"chat": chat, "responses": responses}[dialect]
    print(play(openai.OpenAI(), task, is_streamed=bool(streamed)))  # noqa: T201
