"""This machine's pip settings, for ``pip`` inside a build: indexes, trusted hosts, CA bundle.

They go to the Engine beside the files of the context, as ``pip.conf`` and ``ca.crt``, and only to a
Dockerfile that declares ``ARG PIP_CONFIG_FILE``. Ours do so in a stage of which nothing but
what was installed reaches the image.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

__all__ = ["PIP_ARGUMENT", "pip_files", "wants_pip_settings"]

PIP_ARGUMENT: Final = "PIP_CONFIG_FILE"
_PASSED_ON: Final = ("index-url", "extra-index-url", "trusted-host", "timeout")
_CONFIG: Final = "pip.conf"
_CERTIFICATES: Final = "ca.crt"


def wants_pip_settings(dockerfile: str) -> bool:
    """Return whether the text of a Dockerfile declares that it takes pip's settings."""
    return re.search(rf"^\s*ARG\s+{PIP_ARGUMENT}\b", dockerfile, re.MULTILINE) is not None


def pip_files() -> dict[str, bytes]:
    """``pip.conf`` and, where there is one, the CA bundle; empty if pip has no settings."""
    settings = _settings()
    files: dict[str, bytes] = {}
    lines = ["[global]"]
    certificates = settings.get("cert") or os.environ.get("SSL_CERT_FILE")
    if certificates and Path(certificates).is_file():
        files[_CERTIFICATES] = Path(certificates).read_bytes()
        lines.append(f"cert = {_CERTIFICATES}")  # pip runs where the context was copied to
    for key in _PASSED_ON:
        # Folders of this machine do not exist inside the build.
        words = [word for word in settings.get(key, "").split() if not _is_local(word)]
        if words:
            lines.append(f"{key} = {' '.join(words)}")
    if len(lines) > 1:
        files[_CONFIG] = "\n".join([*lines, ""]).encode()
    return files


def _settings() -> dict[str, str]:
    """Return the settings of ``pip config list``; the environment counts more than files."""
    listed = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found: dict[str, str] = {}
    for line in sorted(listed.stdout.splitlines(), key=lambda line: line.startswith(":env:")):
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2].removeprefix("default-")
        found[name] = value.strip("'\"").replace("\\n", " ")
    return found


def _is_local(word: str) -> bool:
    return word.startswith(("file:", "/", "./", "../", "~"))
