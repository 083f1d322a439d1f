"""The files that a Space needs beside an environment's own: Dockerfile, README, openenv-async."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlparse

from openenv_async.building.push import PushFailed
from openenv_async.errors import InvalidOption
from openenv_async.targets.manifest import Manifest

__all__ = ["needs_base", "own_requirement", "space_dockerfile", "space_readme"]

_DISTRIBUTION: Final = "openenv-async"
_WHEEL_TIMEOUT: Final = 300.0
_BASE: Final = re.compile(r"^ARG\s+BASE(=.*)?$", re.MULTILINE)
_SERVE: Final = re.compile(r'^CMD\s+(\[\s*"openenv-async"\s*,\s*"serve".*\])\s*$', re.MULTILINE)
_FRONT_MATTER: Final = re.compile(r"\A---\n(.*?\n)---\n", re.DOTALL)

_OWN_BASE: Final = """\
ARG PYTHON_IMAGE=python:3.11-slim
ARG BASE=openenv-base

# The base that this environment builds on
FROM ${{PYTHON_IMAGE}} AS openenv-venv
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
ARG PIP_CONFIG_FILE
ARG PIP_CERT
WORKDIR /src
COPY openenv.yaml *.wh[l] pip.con[f] ca.cr[t] ./
RUN python3 -m venv /opt/venv \\
    && /opt/venv/bin/pip install --quiet --no-cache-dir {requirement}

FROM ${{PYTHON_IMAGE}} AS openenv-base
ENV PATH=/opt/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
COPY --from=openenv-venv /opt/venv /opt/venv
WORKDIR /app
# Spaces run containers as this user.
USER 1000:1000

"""


def own_requirement(staged: Path) -> str:
    """Return the requirement with which pip installs the openenv-async of this process.

    From a checkout a wheel is made and put into the folder ``staged``; else it is the version,
    which the index has.

    Raises:
        PushFailed: the wheel cannot be made.
    """
    distribution = importlib.metadata.distribution(_DISTRIBUTION)
    source = _source(distribution.read_text("direct_url.json"))
    if source is None:
        return f"{_DISTRIBUTION}=={distribution.version}"
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
    try:
        done = subprocess.run(
            [*command, str(staged), str(source)],
            capture_output=True,
            text=True,
            timeout=_WHEEL_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PushFailed(f"no wheel of {source} in {_WHEEL_TIMEOUT:g} s") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise PushFailed(f"no wheel of {source} could be made: {last}", log_tail=done.stderr)
    return "./" + next(staged.glob("openenv_async-*.whl")).name


def needs_base(dockerfile: str) -> bool:
    """Return whether a Dockerfile builds on a base that it is given, ``ARG BASE``."""
    return _BASE.search(dockerfile) is not None


def space_dockerfile(
    dockerfile: str, *, base_image: str | None, requirement: str | None, insecure: bool
) -> str:
    """The Dockerfile of a Space, made from the environment's.

    Args:
        dockerfile: its text. One without ``ARG BASE`` names its own base, and keeps it.
        base_image: a published base.
        requirement: what pip installs into a base made here, where there is no ``base_image``.
        insecure: the server lets anybody in.

    Raises:
        InvalidOption: it must be insecure, but its command is not one of ours.
    """
    if insecure:
        match = _SERVE.search(dockerfile)
        if match is None:
            raise InvalidOption(
                'the Dockerfile has no CMD ["openenv-async", "serve", …]: put --insecure there',
                option="insecure",
            )
        command = [*json.loads(match[1]), "--insecure"]
        start, end = match.span()
        dockerfile = f"{dockerfile[:start]}CMD {json.dumps(command)}{dockerfile[end:]}"
    if not needs_base(dockerfile):
        return dockerfile
    if base_image is not None:
        return _BASE.sub(f"ARG BASE={base_image}", dockerfile, count=1)
    return _OWN_BASE.format(requirement=requirement) + _BASE.sub("", dockerfile, count=1).lstrip()


def space_readme(text: str, about: Manifest) -> str:
    """The README with the Space's settings at its head; settings that are there win.

    The keys that a Space cannot do without (``sdk`` and ``app_port``) are set in any case.
    """
    import yaml

    match = _FRONT_MATTER.match(text)
    own: dict[str, Any] = {}
    if match is not None:
        own = yaml.safe_load(match[1]) or {}
        text = text[match.end() :].lstrip("\n")
    settings: dict[str, Any] = {
        "title": about.name.replace("_", " ").replace("-", " ").title(),
        "emoji": "🧭",
        "colorFrom": "blue",
        "colorTo": "green",
        "short_description": about.description[:60],
        "pinned": False,
        "tags": ["openenv", "reinforcement-learning"],
        **own,
        "sdk": "docker",
        "app_port": about.serving_port,
    }
    settings = {key: value for key, value in settings.items() if value != ""}
    head = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n\n{text}"


def _source(direct_url: str | None) -> Path | None:
    """The folder that a distribution was installed from."""
    address = json.loads(direct_url)["url"] if direct_url else ""
    parsed = urlparse(address)
    if parsed.scheme != "file":
        return None
    folder = Path(unquote(parsed.path))
    return folder if (folder / "pyproject.toml").is_file() else None
