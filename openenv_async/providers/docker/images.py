"""The image of a container: there already, or pulled once per host."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, Literal

from openenv_async.errors import WorkerStartFailed
from openenv_async.providers.docker.calls import NoSuchImage
from openenv_async.providers.docker.client import DockerClient

__all__ = ["PullPolicy", "ensure_image", "host_lock"]

PullPolicy = Literal["missing", "always", "never"]

_PULL_TIMEOUT: Final = 1800.0
_LOOK_AGAIN: Final = 0.1


async def ensure_image(
    engine: DockerClient, name: str, policy: PullPolicy, platform: str | None
) -> dict[str, Any]:
    """Return the Engine's record of an image, which it has pulled if it must.

    Processes of this host that want the same image wait for the one that pulls it.

    Raises:
        WorkerStartFailed: it is not there and cannot, or must not, be pulled.
    """
    try:
        if policy != "always":
            with contextlib.suppress(NoSuchImage):
                return await engine.image(name)
            if policy == "never":
                raise WorkerStartFailed(
                    f"the image {name} is not there: build it, or allow pulling (pull_policy)",
                    phase="open",
                    retryable=False,
                )
        async with host_lock(f"{engine.url} {name} {platform}"):
            if policy != "always":
                with contextlib.suppress(NoSuchImage):  # pulled while we waited
                    return await engine.image(name)
            await engine.pull(name, platform=platform, timeout=_PULL_TIMEOUT)
        return await engine.image(name)
    except NoSuchImage as exc:
        raise WorkerStartFailed(
            f"the image {name} is neither here nor at its registry: {exc.message}",
            phase="open",
            retryable=False,
        ) from exc


@contextlib.asynccontextmanager
async def host_lock(what: str) -> AsyncIterator[None]:
    """One holder at a time among all processes of this machine; it dies with its process."""
    try:
        import fcntl
    except ImportError:  # Windows: two pulls of one image are slow, not wrong
        yield
        return
    digest = hashlib.sha256(what.encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"openenv-async-pull-{digest}.lock"
    descriptor = _open(path)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_LOOK_AGAIN)
        yield
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    """A file that every user may lock; flock needs no right to write."""
    try:
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
