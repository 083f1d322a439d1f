"""Packages into a virtual environment: by uv where it is installed, and else by pip.

uv takes seconds where pip takes minutes, and is told what pip is configured with here; pip does
what uv cannot. As a script it takes pip's own words::

    python benchmarks/installing.py install --quiet -e .
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Final

__all__ = ["install", "make_venv", "uv_settings"]

_PASSED_ON: Final = {
    "index-url": "UV_DEFAULT_INDEX",
    "extra-index-url": "UV_INDEX",
    "find-links": "UV_FIND_LINKS",
    "constraint": "UV_CONSTRAINT",
    "cert": "SSL_CERT_FILE",
}
_SEPARATED_BY_COMMAS: Final = ("find-links",)


def make_venv(folder: str, python: str = sys.executable) -> None:
    """Make an empty virtual environment, with pip, whatever was in its folder before."""
    subprocess.run([python, "-m", "venv", "--clear", folder], check=True, timeout=120)


def install(
    python: str, requirements: Sequence[str], *, deps: bool = True, timeout: float = 900.0
) -> None:
    """Install packages where an interpreter finds them.

    Args:
        python: the interpreter of a virtual environment that has pip.
        requirements: as pip takes them, with options that both programs have, such as ``-e``.
        deps: whether what the packages need is installed, too.
        timeout: in seconds, for each of the two programs.

    Raises:
        subprocess.SubprocessError: pip failed or took too long.
    """
    words = [*([] if deps else ["--no-deps"]), *requirements]
    if importlib.util.find_spec("uv") is not None:
        uv = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", python]
        try:
            subprocess.run([*uv, *words], check=True, timeout=timeout, env=uv_settings())
        except subprocess.SubprocessError as exc:
            print(f"uv could not: {exc}; pip is asked", file=sys.stderr)
        else:
            return
    pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run([*pip, *words], check=True, timeout=timeout)


def uv_settings() -> dict[str, str]:
    """Return the environment in which uv uses the indexes and constraints that pip has here."""
    settings = _pip_settings()
    # pip takes the best release of all indexes, uv by itself the first index that has the package.
    found = {**os.environ, "UV_INDEX_STRATEGY": "unsafe-best-match"}
    for key, name in _PASSED_ON.items():
        words = settings.get(key, "").split()
        if words and name not in os.environ:
            found[name] = ("," if key in _SEPARATED_BY_COMMAS else " ").join(words)
    return found


def _pip_settings() -> dict[str, str]:
    """Return the settings of ``pip config list``; the environment counts more than files."""
    asked = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(asked, capture_output=True, text=True, timeout=60, check=False)
    found: dict[str, str] = {}
    for line in sorted(listed.stdout.splitlines(), key=lambda line: line.startswith(":env:")):
        key, _, value = line.partition("=")
        name = key.rpartition(".")[2].removeprefix("default-")
        found[name] = value.strip("'\"").replace("\\n", " ")
    return found


if __name__ == "__main__":
    if sys.argv[1:2] != ["install"]:
        sys.exit("the one command is: install")
    install(sys.executable, [word for word in sys.argv[2:] if word != "--quiet"])
