"""Files for running servers: behind nginx or Caddy, under systemd, by Compose or on Kubernetes.

They are the files of ``deployments/KIND``. In them, and in their names, ``{{image}}`` and alike are
filled in: each stands for one of ``SETTINGS``, for what follows from several, or for a new token.
"""

from __future__ import annotations

import difflib
import math
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from openenv_async.errors import InvalidOption

__all__ = ["KINDS", "SETTINGS", "deployment_files", "write_deployment"]

KINDS: Final = {
    "nginx": "a reverse proxy with a prefix",
    "caddy": "the same, with certificates of its own",
    "systemd": "a service of a Linux machine",
    "compose": "a container by Docker Compose",
    "kubernetes": "pods, with Services, probes, a drain and a disruption budget",
    "prometheus": "a scrape configuration and alerts",
    "grafana": "a dashboard of these metrics",
}
SETTINGS: Final = {
    "target": ("echo", "environment, as for serve"),
    "name": ("openenv", "name of the service and its files"),
    "image": ("echo-env:latest", "image of the environment"),
    "prefix": ("/envs", "path below which a proxy has the server"),
    "host": ("127.0.0.1", "address that the server is reached at"),
    "port": ("8000", "its port"),
    "server_name": ("_", "host name that a proxy answers to; _: to every one"),
    "listen": ("80", "port of a proxy"),
    "drain": ("300", "seconds that episodes have to end when a server stops"),
    "replicas": ("2", "pods"),
    "memory_mib": ("2048", "memory of a server in MiB, at most"),
    "cpus": ("2", "cores of a server, at most"),
    "program": ("/opt/openenv/bin/openenv-async", "path of the command"),
    "token_file": ("/etc/openenv/token", "file with the token"),
}
"""Settings: default and meaning of each."""

_FOLDER: Final = Path(__file__).with_name("deployments")
_SUFFIX: Final = ".tmpl"
_WORD: Final = re.compile(r"\{\{(\w+)\}\}")
_AS_THEY_ARE: Final = frozenset({"grafana"})
"""Kinds whose files have words in braces of their own."""
_CLOSING: Final = 30
"""Seconds to close what is left after a drain."""
_VALID: Final = {
    "name": (r"[a-z](?:[a-z0-9-]{0,48}[a-z0-9])?", "lower case letters, digits and -"),
    "prefix": (r"(?:/[A-Za-z0-9_.~-]+)+", "a path such as /envs, without a slash at its end"),
    "server_name": (r"_|[A-Za-z0-9.-]+", "a host name, or _"),
    "host": (r"[A-Za-z0-9.-]+", "a host name or an IPv4 address"),
}
_ONE_WORD: Final = r"[^\s\"'\\{}$%;#]+"
_NUMBERS: Final = {
    "port": (1, 65535, int),
    "listen": (1, 65535, int),
    "drain": (0, 86_400, int),
    "replicas": (1, 10_000, int),
    "memory_mib": (64, 2**24, int),
    "cpus": (0.1, 1024, float),
}


def deployment_files(kind: str, settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the files of a kind of deployment by their names.

    Args:
        kind: one of ``KINDS``.
        settings: some of ``SETTINGS``.

    Raises:
        InvalidOption: there is no such kind or setting, or a value cannot be part of a file.
    """
    if kind not in KINDS:
        raise InvalidOption(
            f"there is no deployment {kind!r:.80}; there are {', '.join(KINDS)}", option="kind"
        )
    words = _words(settings or {})
    folder = _FOLDER / kind
    if kind in _AS_THEY_ARE:
        words = {
            name: f"{{{{{name}}}}}" for name in ("state", "instance", "code", "phase", "engine")
        }
    return {
        _filled(path.relative_to(folder).as_posix().removesuffix(_SUFFIX), words): _filled(
            path.read_text(encoding="utf-8"), words
        )
        for path in sorted(folder.rglob(f"*{_SUFFIX}"))
    }


def write_deployment(
    kind: str, folder: Path, settings: Mapping[str, str] | None = None
) -> list[Path]:
    """Write the files of a kind of deployment into a folder, which is made if need be.

    Returns:
        The files written.

    Raises:
        InvalidOption: as by ``deployment_files``; or a file exists, or cannot be written. Nothing
            that exists is overwritten.
    """
    files = {folder / name: text for name, text in deployment_files(kind, settings).items()}
    for path in files:
        if path.exists() or path.is_symlink():
            raise InvalidOption(f"{path} exists already: take another folder (--out)")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)  # a token may be in it
    except OSError as exc:
        raise InvalidOption(f"{folder} cannot be made: {exc.strerror or exc}") from exc
    for path, text in files.items():
        try:
            path.write_text(text, encoding="utf-8")
        except OSError as exc:
            raise InvalidOption(f"{path} cannot be written: {exc.strerror or exc}") from exc
    return [*files]


def _words(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the values of all words: of the settings, and what follows from them."""
    words = {name: default for name, (default, _) in SETTINGS.items()}
    for name, value in settings.items():
        if name not in SETTINGS:
            near = difflib.get_close_matches(name, SETTINGS, n=1)
            cure = f"did you mean {near[0]}?" if near else f"there are {', '.join(SETTINGS)}"
            raise InvalidOption(f"there is no setting {name!r:.80}: {cure}", option=name)
        words[name] = _checked(name, value)
    memory = int(words["memory_mib"])
    any_host = words["server_name"] == "_"
    return words | {
        "token": secrets.token_urlsafe(32),
        "identifier": words["name"].replace("-", "_"),
        "server": f"{words['host']}:{words['port']}",
        "caddy_address": f":{words['listen']}" if any_host else words["server_name"],
        "stop_after": str(int(words["drain"]) + _CLOSING),
        "systemd_memory": f"{memory}M",
        "compose_memory": f"{memory}m",
        "kubernetes_memory": f"{memory}Mi",
        "memory_request": f"{math.ceil(memory / 4)}Mi",
        "cpu_request": f"{math.ceil(float(words['cpus']) * 250)}m",
    }


def _checked(name: str, value: str) -> str:
    """Return the value of a setting.

    Raises:
        InvalidOption: it cannot be part of a file.
    """
    if name in _NUMBERS:
        low, high, read = _NUMBERS[name]
        try:
            if low <= read(value) <= high:
                return value.strip()
        except ValueError:
            pass
        kind = "a whole number" if read is int else "a number"
        wanted = f"{kind} from {low} to {high}"
    else:
        pattern, wanted = _VALID.get(name, (_ONE_WORD, "one word without quotes"))
        if re.fullmatch(pattern, value):
            return value
    raise InvalidOption(f"{name} must be {wanted}, got {value!r:.80}", option=name)


def _filled(text: str, words: Mapping[str, str]) -> str:
    return _WORD.sub(lambda match: words[match[1]], text)
