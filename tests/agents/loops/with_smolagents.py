"""An agent of ``smolagents``: ``with_smolagents.py KIND TASK``, a kind of code or of calls."""

from __future__ import annotations

import os
import subprocess
import sys

from smolagents import CodeAgent, OpenAIServerModel, ToolCallingAgent, tool


@tool  # type: ignore[untyped-decorator]  # of a peer
def bash(command: str) -> str:
    """Run a line of shell.

    Args:
        command: the line.
    """
    return subprocess.run(command, shell=True, capture_output=True, text=True, check=False).stdout


if __name__ == "__main__":
    kind, task = sys.argv[1:]
    model = OpenAIServerModel(
        model_id="gpt",
        api_base=os.environ["OPENAI_BASE_URL"],
        api_key=os.environ["OPENAI_API_KEY"],
    )
    made = {"code": CodeAgent, "calls": ToolCallingAgent}[kind]
    print(made(tools=[bash], model=model).run(task))  # noqa: T201
