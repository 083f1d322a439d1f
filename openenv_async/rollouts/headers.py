"""The header of a file of trajectories: who wrote it, with what, and when.

It is a dict with the keys ``schema`` (version of the schema, a number), ``run`` (id of the run,
or ``None``), ``command`` (the command line, a list), ``time`` (UTC, ISO 8601), ``versions`` (by
name) and ``environment`` (as in a ``Trajectory``, or ``None``); further keys are kept. Secrets are
taken out.

In JSON Lines it is one key more of the first line that a writer wrote, so that every line is an
episode, for other programs too; in Parquet it is metadata of the schema. A file that others went on
with has their headers in the list ``appended``.
"""

from __future__ import annotations

import datetime
import functools
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import msgspec

from openenv_async.endpoints.redaction import redacted_command, redacted_value
from openenv_async.models import to_builtins
from openenv_async.version import __version__

__all__ = ["HEADER_KEY", "SCHEMA_VERSION", "headers_of_lines", "joined_headers", "make_header"]

HEADER_KEY: Final = "openenv_trajectories"
"""Name of the header in a line, and in the metadata of a Parquet file."""
SCHEMA_VERSION: Final = 2
"""Version of the schema; files of the releases without a header have version 1."""
_PACKAGES: Final = ("numpy", "pyarrow")


def make_header(**keys: Any) -> dict[str, Any]:
    """Return the header of a file that this process writes.

    Args:
        keys: what it has besides, or instead.
    """
    header = {
        "schema": SCHEMA_VERSION,
        "run": None,
        "command": redacted_command([str(argument) for argument in sys.argv]),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": dict(_versions()),
        "environment": None,
    }
    header |= {name: redacted_value(to_builtins(value)) for name, value in keys.items()}
    if isinstance(command := header["command"], list):
        header["command"] = redacted_command([str(argument) for argument in command])
    return header


@functools.cache
def _versions() -> Mapping[str, str]:
    found = {"openenv_async": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def joined_headers(headers: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the first of a file's headers, with the others in its list ``appended``."""
    if not headers:
        return None
    first, *others = headers
    if others:
        return {**first, "appended": [*first.get("appended", ()), *others]}
    return first


class _Line(msgspec.Struct):
    header: dict[str, Any] = msgspec.field(name=HEADER_KEY)


_START: Final = f'{{"{HEADER_KEY}":'.encode()
_LINE: Final = msgspec.json.Decoder(_Line)


def headers_of_lines(path: Path) -> list[dict[str, Any]]:
    """Return the headers of a JSON Lines file: each begins a line."""
    found = []
    with path.open("rb") as lines:
        for line in lines:
            if line.startswith(_START):
                try:
                    found.append(_LINE.decode(line).header)
                except msgspec.DecodeError:  # the line that a crash cut
                    continue
    return found
