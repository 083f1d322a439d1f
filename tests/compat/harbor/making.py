"""Small task folders for tests."""

from __future__ import annotations

from pathlib import Path

__all__ = ["make_task"]

DOCKERFILE = "FROM python:3.11\nUSER root\nWORKDIR /app\n"
TEST = "#!/bin/bash\ngrep -q yes /app/answer && echo 1 > /logs/verifier/reward.txt\n"


def make_task(folder: Path, **files: str | None) -> Path:
    """Write a task whose reward is 1 for the word yes in ``/app/answer``.

    Args:
        folder: that is made.
        files: other contents of a file, by its name with ``_`` for ``/`` and ``.``; ``None``: none.
    """
    contents = {
        "task.toml": "",
        "instruction.md": "Write yes to /app/answer.\n",
        "environment/Dockerfile": DOCKERFILE,
        "tests/test.sh": TEST,
        "solution/solve.sh": "#!/bin/bash\necho yes > /app/answer\n",
    }
    names = {name.replace("/", "_").replace(".", "_"): name for name in contents}
    for key, text in files.items():
        contents[names[key]] = text  # type: ignore[assignment]  # None leaves it out
    for name, text in contents.items():
        if text is not None:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
    return folder
