"""Runs the python blocks of one page, in order, in one namespace.

Standard input has a JSON list of ``[line, text]``; standard output gets a JSON list of what each
printed. A block that awaits at top level runs on one event loop that all such blocks share, the
others without a running loop.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import inspect
import io
import json
import sys
import types


def main(page: str) -> None:
    sys.path[0] = ""
    module = types.ModuleType("page")
    sys.modules["page"] = module  # so that annotations can be resolved
    outputs: list[str] = []
    with asyncio.Runner() as runner:
        for line, text in json.load(sys.stdin):
            # Padded, so that a traceback tells the line of the page.
            code = compile(
                "\n" * (line - 1) + text, page, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
            )
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                made = eval(code, module.__dict__)
                if inspect.iscoroutine(made):
                    runner.run(made)
            outputs.append(printed.getvalue())
    json.dump(outputs, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
