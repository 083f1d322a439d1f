"""Pushing an image to a registry."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import Callable
from typing import Final

from openenv_async.building.build import check_reference
from openenv_async.building.credentials import registry_credentials
from openenv_async.errors import ProviderError
from openenv_async.providers.docker.progress import transfer_line
from openenv_async.providers.docker.stream import StreamError, engine_stream, opened

__all__ = ["PushFailed", "push_image", "registry_name", "split_tag"]

PUSH_TIMEOUT: Final = 3600.0


class PushFailed(ProviderError):
    """An image or a Space was not pushed."""

    code = "push_failed"
    retryable_by_default = False


def split_tag(name: str) -> tuple[str, str]:
    """Repository and tag; ``latest`` without one. A colon before a ``/`` is a port's."""
    repository, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        return name, "latest"
    return repository, tag


def registry_name(image: str, registry: str, tag: str | None = None) -> str:
    """Return the name of an image in a registry: ``R/NAME:TAG``.

    Args:
        image: its name here.
        registry: ``host[:port][/path]``.
        tag: another than the one here.
    """
    repository, own = split_tag(image)
    place = registry.rstrip("/")
    for scheme in ("https://", "http://"):
        place = place.removeprefix(scheme)
    return f"{place}/{repository.rsplit('/', 1)[-1]}:{tag or own}"


async def push_image(
    image: str,
    target: str | None = None,
    *,
    on_line: Callable[[str], object] = lambda line: None,
    timeout: float = PUSH_TIMEOUT,
    url: str | None = None,
) -> str:
    """Push an image that the Engine has: its digest, ``sha256:…``.

    The credentials are those of ``docker login``.

    Args:
        image: its name here.
        target: its name there, ``host[:port]/path:tag``; by default the same. The Engine keeps
            it as one more name of the image.
        on_line: called with lines of progress.
        timeout: seconds for all of it.
        url: of the Engine; ``None``: as the docker command finds it.

    Raises:
        PushFailed: the Engine has no such image, or the registry refused it.
        ProviderError: no Engine answers.
    """
    target = target or image
    check_reference(target)
    repository, tag = split_tag(target)
    host = repository.partition("/")[0]
    if not ("." in host or ":" in host or host == "localhost"):
        host = "docker.io"
    auth = await registry_credentials(host)
    # Without credentials the Engine wants the header all the same.
    header = base64.urlsafe_b64encode(json.dumps(auth or {}).encode()).decode()
    digest = ""
    try:
        async with asyncio.timeout(timeout), opened(url) as docker:
            if target != image:
                await docker.images.tag(image, repository, tag=tag)
            stream = engine_stream(
                docker, f"images/{repository}/push", {"tag": tag}, {"X-Registry-Auth": header}
            )
            async with contextlib.aclosing(stream):
                async for message in stream:
                    if isinstance(message.get("aux"), dict):
                        digest = str(message["aux"].get("Digest", digest))
                    elif (line := transfer_line(message)) is not None:
                        on_line(line)
            if not digest:
                raise StreamError("the Engine broke off")
    except TimeoutError:
        raise PushFailed(f"{target} was not pushed: it took longer than {timeout:g} s") from None
    except StreamError as exc:
        words = str(exc)
        hint = ""
        if "auth" in words or "denied" in words:
            hint = f"; log in with: docker login {host}"
        raise PushFailed(f"{target} was not pushed: {words[:500]}{hint}") from None
    return digest
