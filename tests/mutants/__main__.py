"""``python -m tests.mutants``: try the mutations of the list, or ones drawn at random.

Each is applied to a copy of the tree, and the tests of its room (``tests/ROOM``) must notice it
within two minutes. Without ``--random`` the result is written to ``RESULT.md`` beside this file;
that of a part of the list replaces the rows of that part.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import queue
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.mutants.generate import Change, drawn
from tests.mutants.mutations import MUTATIONS, Mutation
from tests.mutants.running import ROOMS, Copy, Verdict, room_of

_ROOT: Final = Path(__file__).resolve().parents[2]
_RESULT: Final = Path(__file__).with_name("RESULT.md")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--room", choices=ROOMS, help="only this package")
    parser.add_argument("--only", default="", help="only mutations whose name contains this")
    parser.add_argument(
        "--no-check",
        dest="check",
        action="store_false",
        help="trust the tests to pass by themselves",
    )
    parser.add_argument("--jobs", type=int, default=2, help="mutations tried at once")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds for each")
    parser.add_argument("--random", type=int, help="draw so many instead of taking the list")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--module", default="", help="draw from modules whose path contains this")
    return parser.parse_args()


def _tried(
    items: list[Any], options: argparse.Namespace, attempt: Callable[[Copy, Any], Verdict]
) -> list[Verdict]:
    """The verdicts of all, several at once, each with a copy of its own."""
    copies: queue.SimpleQueue[Copy] = queue.SimpleQueue()

    def one(item: Any) -> Verdict:
        copy = copies.get()
        try:
            verdict = attempt(copy, item)
        finally:
            copies.put(copy)
        mark = "killed  " if verdict.killed else "SURVIVED"
        sys.stdout.write(f"{mark} {verdict.seconds:6.1f} s  {_title(item)}  {verdict.by}\n")
        sys.stdout.flush()
        return verdict

    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        made = [
            Copy(_ROOT, Path(folder, str(number)), options.limit) for number in range(options.jobs)
        ]
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as threads:
            if options.check:
                rooms = sorted({room_of(item.file) for item in items})
                for start in range(0, len(rooms), options.jobs):
                    batch = rooms[start : start + options.jobs]
                    list(threads.map(Copy.check, made, batch))
            for copy in made:
                copies.put(copy)
            return list(threads.map(one, items))


def _title(item: Mutation | Change) -> str:
    if isinstance(item, Mutation):
        return item.name
    return f"{item.file}:{item.line} {item.what}"


def _try_listed(copy: Copy, mutation: Mutation) -> Verdict:
    return copy.try_out(mutation.file, mutation.apply, mutation.first)


def _try_drawn(copy: Copy, change: Change) -> Verdict:
    return copy.try_out(change.file, change.apply)


def _rows(page: str) -> dict[str, str]:
    """The rows of a page by the names of their mutations."""
    rows = (line for line in page.splitlines() if line.startswith("| "))
    return {row.split(" | ")[1]: row for row in rows}


def _row(mutation: Mutation, verdict: Verdict) -> str:
    if verdict.killed:
        end = f"`{verdict.by}`"
    else:
        end = f"**survives**: {mutation.survives or verdict.by}"
    return f"| {room_of(mutation.file)} | {mutation.name} | {end} | {verdict.seconds:.0f} |"


def _report(page: str, mutations: list[Mutation], verdicts: list[Verdict]) -> str:
    """The page with the results of these mutations, and those of others that it has already."""
    known = _rows(page)
    known |= {item.name: _row(item, end) for item, end in zip(mutations, verdicts, strict=True)}
    rows = [known[mutation.name] for mutation in MUTATIONS if mutation.name in known]
    killed = sum("**survives**" not in row for row in rows)
    lines = [
        "# Mutations and the tests that notice them",
        "",
        "Written by `make mutants`: each mutation of `mutations.py` applied by itself to a copy of",
        "the tree, and the tests of its room run until one fails.",
        "",
        f"{killed} of {len(rows)} killed ({100 * killed / len(rows):.0f} %).",
        "",
        "| Room | Mutation | Killed by | Seconds |",
        "| --- | --- | --- | ---: |",
        *rows,
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the command; the exit status is 1 when one survived without a reason."""
    options = _options()
    if options.random:
        if options.room is None:
            raise SystemExit("--random needs --room")
        changes = drawn(_ROOT, options.room, options.random, options.seed, options.module)
        verdicts = _tried(changes, options, _try_drawn)
        killed = sum(verdict.killed for verdict in verdicts)
        sys.stdout.write(f"{killed} of {len(verdicts)} killed\n")
        return 0
    mutations = [
        mutation
        for mutation in MUTATIONS
        if options.only in mutation.name and options.room in (None, room_of(mutation.file))
    ]
    verdicts = _tried(mutations, options, _try_listed)
    page = _RESULT.read_text() if _RESULT.exists() else ""
    _RESULT.write_text(_report(page, mutations, verdicts))
    pairs = zip(mutations, verdicts, strict=True)
    return int(any(not verdict.killed and not item.survives for item, verdict in pairs))


if __name__ == "__main__":
    raise SystemExit(main())
