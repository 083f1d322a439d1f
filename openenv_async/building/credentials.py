"""This user's credentials at a registry, as ``docker login`` wrote them down.

``config.json`` of ``DOCKER_CONFIG`` (or ``~/.docker``) holds either the credentials or the name of
a helper program, ``docker-credential-NAME``, which is asked. None of it is kept or shown.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import os
from pathlib import Path
from typing import Any, Final

from openenv_async.errors import ProviderError

__all__ = ["registry_credentials"]

_HELPER_TIMEOUT: Final = 30.0
_HUB: Final = "https://index.docker.io/v1/"
_HUB_NAMES: Final = ("docker.io", "index.docker.io", "registry-1.docker.io")


async def registry_credentials(registry: str) -> dict[str, str] | None:
    """User and password (or token) for a registry; ``None``: go without.

    Raises:
        ProviderError: the file, or the helper that it names, cannot be used.
    """
    folder = os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker"
    path = Path(folder) / "config.json"
    try:
        config = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as exc:
        raise ProviderError(f"{path} cannot be read: {exc}") from exc
    names = [registry, f"https://{registry}", f"http://{registry}"]
    if registry in _HUB_NAMES:
        names = [_HUB, *names]
    helpers = config.get("credHelpers", {})
    helper = next((helpers[name] for name in names if name in helpers), config.get("credsStore"))
    if helper:
        return await _ask(helper, names[0])
    for name in names:
        entry = config.get("auths", {}).get(name)
        if entry:
            return _decoded(entry, path)
    return None


def _decoded(entry: dict[str, Any], path: Path) -> dict[str, str] | None:
    if entry.get("identitytoken"):
        return {"identitytoken": entry["identitytoken"]}
    if "auth" not in entry:
        return None
    try:
        user, _, password = base64.b64decode(entry["auth"], validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, TypeError) as exc:
        raise ProviderError(f"{path} holds credentials that cannot be read: log in again") from exc
    return {"username": user, "password": password}


async def _ask(helper: str, server: str) -> dict[str, str] | None:
    program = f"docker-credential-{helper}"
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            "get",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError as exc:
        raise ProviderError(f"{program}, which docker's config names, cannot be run") from exc
    try:
        async with asyncio.timeout(_HELPER_TIMEOUT):
            out, _ = await process.communicate(server.encode())
    except TimeoutError:
        raise ProviderError(f"{program} did not answer in {_HELPER_TIMEOUT:g} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        return None  # it knows nothing of this registry
    try:
        said = json.loads(out)
        return {"username": str(said["Username"]), "password": str(said["Secret"])}
    except (ValueError, KeyError, TypeError) as exc:
        raise ProviderError(f"{program} did not answer with a credential") from exc
