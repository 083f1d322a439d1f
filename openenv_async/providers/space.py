"""SpaceProvider: environments that are published as Hugging Face Spaces.

Either the running Space is played on, at its URL, or its image is taken from the Spaces' registry
and run in containers of one's own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from openenv_async.errors import ProviderError
from openenv_async.providers.base import Provider, Worker
from openenv_async.providers.static import StaticProvider

__all__ = ["SpaceProvider", "find_huggingface_token", "space_image", "space_url"]

_SPACE = re.compile(r"[\w.-]+/[\w.-]+")


class SpaceProvider(Provider):
    """Workers of a Space.

    Args:
        space: ``owner/name``.
        run: ``remote`` plays on the Space itself, ``docker`` runs its image in containers here.
        private: send this user's Hugging Face token along, which a private Space asks for. It is
            never sent otherwise: the application behind the address sees it.
        url: of the Space, where it is not the usual one.
        options: of ``DockerProvider``.

    Raises:
        ValueError: ``space`` is not ``owner/name``.
        ProviderError: it is private, and no token is found.
    """

    name = "space"

    def __init__(
        self,
        space: str,
        *,
        run: Literal["remote", "docker"] = "remote",
        private: bool = False,
        url: str | None = None,
        **options: Any,
    ) -> None:
        token = find_huggingface_token(os.environ) if private else None
        if private and token is None:
            raise ProviderError(
                f"{space} is private and no Hugging Face token is found: set HF_TOKEN, or log in"
                " with `hf auth login`"
            )
        self.space = space
        self._inner: Provider
        if run == "docker":
            from openenv_async.providers.docker import DockerProvider

            self._inner = DockerProvider(space_image(space), **options)
        elif options:
            raise TypeError(f"{sorted(options)[0]!r} is an option of containers: run='docker'")
        else:
            self._inner = StaticProvider(url or space_url(space), token=token)
        self.owns_workers = self._inner.owns_workers

    async def room(self) -> int | None:
        """Return the room of the provider that this one uses."""
        return await self._inner.room()

    async def start(self, *, timeout: float | None = None) -> Worker:
        """Start a server with the provider that this one uses."""
        return await self._inner.start(timeout=timeout)

    async def aclose(self) -> None:
        """Close the provider that this one uses."""
        await self._inner.aclose()


def space_url(space: str) -> str:
    """Return the address that a Space is served at."""
    return f"https://{_subdomain(space)}.hf.space"


def space_image(space: str) -> str:
    """The image of a Space in the Spaces' registry."""
    return f"registry.hf.space/{_subdomain(space)}:latest"


def _subdomain(space: str) -> str:
    if not _SPACE.fullmatch(space):
        raise ValueError(f"{space!r} is not a valid name of a Space: write owner/name")
    return re.sub(r"[^a-z0-9]+", "-", space.lower()).strip("-")


def find_huggingface_token(environ: Mapping[str, str]) -> str | None:
    """The user's token, from where Hugging Face's own tools keep it; ``None``: nowhere."""
    for variable in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if token := environ.get(variable, "").strip():
            return token
    cache = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = Path(environ.get("HF_HOME") or cache / "huggingface")
    path = Path(environ.get("HF_TOKEN_PATH") or home / "token")
    try:
        return path.expanduser().read_text(encoding="utf-8").strip() or None
    except OSError:
        return None
