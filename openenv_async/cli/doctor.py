"""``openenv-async doctor``: is this machine fit, and what would make it so?"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Final, Literal

import click

from openenv_async.cli.options import examples
from openenv_async.cli.output import echo

__all__ = ["Finding", "doctor", "findings"]

_DISTRIBUTION: Final = "openenv-async"
_DEVELOPMENT: Final = ("dev", "test")
_FILES: Final = 4096
_PIDS: Final = 1024
_DISK: Final = 2 * 10**9
_MEMORY: Final = 512 * 2**20
_LOOK: Final = 3.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what.
        status: ``ok``; ``warn``: something does without it; ``fail``: nothing works.
        found: what there is.
        remedy: what to do, unless it is fine.
    """

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    remedy: str = ""


@click.command(epilog=examples("doctor", "doctor --json"))
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def doctor(as_json: bool) -> None:
    """Look at this machine: Python, Docker, descriptors, pids, disk, memory, optional extras.

    Exit codes: 0 everything needed is there, warnings or not; 1 something needed is missing.
    """
    found = list(findings())
    if as_json:
        echo(json.dumps([asdict(each) for each in found], indent=2))
    else:
        width = max(len(each.name) for each in found)
        colors = {"ok": "green", "warn": "yellow", "fail": "red"}
        for each in found:
            mark = click.style(each.status.ljust(4), fg=colors[each.status])
            remedy = f"; {each.remedy}" if each.remedy else ""
            echo(f"  {each.name.ljust(width)}  {each.found}{remedy}", mark=mark)
    if any(each.status == "fail" for each in found):
        click.get_current_context().exit(1)


def findings() -> Iterator[Finding]:
    """All that is looked at, one after the other."""
    yield _python()
    yield from _requirements()
    yield asyncio.run(_docker())
    yield _files()
    yield _pids()
    yield _disk()
    yield _memory()


def _judge(name: str, good: bool, found: str, remedy: str) -> Finding:
    return Finding(name, "ok" if good else "warn", found, "" if good else remedy)


def _python() -> Finding:
    version = ".".join(str(part) for part in sys.version_info[:3])
    return Finding("Python", "ok", f"{version}, {sys.executable}")


def _requirements() -> Iterator[Finding]:
    """Return a finding for all that the package needs, and one for each extra."""
    missing: dict[str, list[str]] = {"": []}
    try:
        declared = importlib.metadata.requires(_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding(
            "packages", "warn", "openenv-async is not installed", "pip install openenv-async"
        )
        return
    for line in declared:
        requirement, _, marker = line.partition(";")
        extra = re.search(r"extra\s*==\s*['\"]([^'\"]+)", marker)
        group = extra[1] if extra is not None else ""
        if group in _DEVELOPMENT or ("sys_platform" in marker and sys.platform == "win32"):
            continue
        name = re.match(r"[\w.-]+", requirement)
        assert name is not None
        missing.setdefault(group, [])
        if not _is_there(name[0]):
            missing[group].append(name[0])
    needed = missing.pop("")
    if needed:
        yield Finding(
            "packages", "fail", f"missing: {', '.join(needed)}", "pip install openenv-async"
        )
    else:
        yield Finding("packages", "ok", "everything needed is installed")
    for group, names in sorted(missing.items()):
        yield _judge(
            f"extra {group}",
            not names,
            f"not installed: {', '.join(names)}" if names else "installed",
            f"if you want it: pip install 'openenv-async[{group}]'",
        )


def _is_there(distribution: str) -> bool:
    try:
        importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


async def _docker() -> Finding:
    from aiodocker import DockerError

    from openenv_async.providers.docker.address import find_engine
    from openenv_async.providers.docker.calls import EngineError

    without = "without it environments run as processes"
    try:
        address = find_engine()
        docker = address.connect()
    except EngineError as exc:
        return Finding("Docker Engine", "warn", exc.message, without)
    try:
        async with asyncio.timeout(_LOOK):
            about = await docker.version()
    except (DockerError, ValueError, OSError, TimeoutError) as exc:
        found, _, remedy = address.no_answer(exc.__context__).rpartition(": ")
        return Finding("Docker Engine", "warn", found, f"{remedy}; {without}")
    finally:
        with contextlib.suppress(Exception):
            await docker.close()
    version = f"{about['Version']}, API {about['ApiVersion']}"
    return Finding("Docker Engine", "ok", f"{version}, at {address}")


def _files() -> Finding:
    try:
        import resource
    except ImportError:  # Windows
        return Finding("file descriptors", "ok", "no limit is known")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = inf if hard == resource.RLIM_INFINITY else hard
    shown = f"{soft}, can be raised to {'any number' if most == inf else hard}"
    return _judge(
        "file descriptors",
        most >= _FILES,
        shown,
        f"raise the hard limit (ulimit -Hn) to {_FILES} or more: each connection takes one",
    )


def _pids() -> Finding:
    left = inf
    for root in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/pids")):
        with contextlib.suppress(OSError, ValueError):
            most = (root / "pids.max").read_text().strip()
            if most != "max":
                left = min(left, int(most) - int((root / "pids.current").read_text()))
    with contextlib.suppress(ImportError, OSError, AttributeError, ValueError):
        import resource

        soft = resource.getrlimit(resource.RLIMIT_NPROC)[0]
        if soft != resource.RLIM_INFINITY and os.getuid() != 0:
            left = min(left, soft)
    shown = "no limit is known" if left == inf else f"{left:,.0f} more processes and threads"
    return _judge("pids", left >= _PIDS, shown, "raise the cgroup's pids.max, or ulimit -u")


def _disk() -> Finding:
    free = min(shutil.disk_usage(path).free for path in (tempfile.gettempdir(), "."))
    remedy = "free some: images and logs need it"
    return _judge("disk", free >= _DISK, f"{free / 1e9:,.1f} GB free", remedy)


def _memory() -> Finding:
    from openenv_async.engine.resources import available_memory

    free = available_memory()
    if free == inf:
        return Finding("memory", "ok", "no limit is known")
    remedy = "free some, or give the container more: a server refuses sessions when it runs out"
    return _judge("memory", free >= _MEMORY, f"{free / 1e9:,.1f} GB available", remedy)
