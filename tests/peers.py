"""Real peers: packages of others, each installed once into an environment of its own.

They are what tests talk to over a socket, a pipe or a command line, and may not be installable
beside each other or beside what this project's own tests need.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from benchmarks.compare import UPSTREAM_VENV
from benchmarks.installing import install, make_venv

__all__ = [
    "MCP_CLIENTS",
    "MODEL_SDKS",
    "OPENREWARD",
    "VERIFIERS",
    "ensure_npm_peer",
    "ensure_peer",
]

_ROOT: Final = UPSTREAM_VENV.parent
_INSTALLING: Final = 600.0
"""Seconds that an installation may take."""

MCP_CLIENTS: Final = ("mcp==2.3.0", "fastmcp==4.2.3")
"""The clients of both generations of MCP: the SDK's own, and FastMCP's."""
MODEL_SDKS: Final = ("openai==3.51.0", "anthropic==2.10.0", "openai-agents==0.24.0")
"""The clients of model providers, and an agent that is built on one."""
OPENREWARD: Final = ("openreward==0.1.167",)
"""A server of the Open Reward Standard, and its client."""
VERIFIERS: Final = ("verifiers==0.4.0",)
"""Tasksets, their runner and their tools; it pins an ``mcp`` that others cannot have."""


@functools.cache
def ensure_peer(
    name: str, requirements: Sequence[str], *, python: str = sys.executable, deps: bool = True
) -> str:
    """Return an interpreter that has these packages, which are installed if need be.

    A test that needs one which cannot be had is skipped; in CI it fails.

    Args:
        name: of the peer; ``OPENENV_PEER_NAME`` may name an interpreter to use as it is.
        requirements: with exact releases, as a tuple.
        python: what makes the environment.
        deps: whether what the packages need is installed, too.
    """
    if given := _given(name):
        return given
    try:
        return str(_installed(_ROOT / name, tuple(requirements), python, deps))
    except (OSError, subprocess.SubprocessError) as exc:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"{name} cannot be installed here: {exc}")


@functools.cache
def ensure_npm_peer(name: str, package: str) -> str:
    """Return the folder of the programs of an npm package, which is installed if need be.

    A test that needs one which cannot be had is skipped; in CI it fails.

    Args:
        name: of the peer; ``OPENENV_PEER_NAME`` may name a folder of programs to use as it is.
        package: with its exact release, as npm has it.
    """
    if given := _given(name):
        return given
    try:
        return str(_npm_installed(_ROOT / f"npm-{name}", package))
    except (OSError, subprocess.SubprocessError) as exc:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"{package} cannot be installed here: {exc}")


def _given(name: str) -> str | None:
    return os.environ.get(f"OPENENV_PEER_{name.upper().replace('-', '_')}")


def _npm_installed(folder: Path, package: str) -> Path:
    found = folder / "node_modules" / ".bin"
    stamp = folder / ".installed"
    _ROOT.mkdir(parents=True, exist_ok=True)
    with (_ROOT / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes may come at once
        if stamp.is_file() and stamp.read_text() == package:
            return found
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        quiet = ("--no-audit", "--no-fund", "--loglevel", "error")
        command = ["npm", "install", *quiet, "--prefix", str(folder), package]
        subprocess.run(command, check=True, timeout=_INSTALLING)
        stamp.write_text(package)
    return found


def _installed(folder: Path, requirements: tuple[str, ...], python: str, deps: bool) -> Path:
    found = folder / "bin" / "python"
    stamp = folder / ".installed"
    wanted = hashlib.sha256(repr((requirements, deps)).encode()).hexdigest()
    _ROOT.mkdir(parents=True, exist_ok=True)
    with (_ROOT / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes may come at once
        if stamp.is_file() and stamp.read_text() == wanted:
            return found
        make_venv(str(folder), python)
        install(str(found), requirements, deps=deps, timeout=_INSTALLING)
        stamp.write_text(wanted)
    return found
