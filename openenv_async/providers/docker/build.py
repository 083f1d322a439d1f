"""A build on a Docker Engine: a context goes in, an image comes out, its output streamed."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any, Final

from openenv_async.errors import ProviderError
from openenv_async.providers.docker.progress import BuildLog
from openenv_async.providers.docker.stream import StreamError, engine_stream, opened

__all__ = ["BUILD_TIMEOUT", "BuildFailed", "BuiltImage", "build_context"]

BUILD_TIMEOUT: Final = 3600.0


class BuildFailed(ProviderError):
    """An image was not built; ``log_tail`` has the last lines of the step that failed."""

    code = "build_failed"
    retryable_by_default = False


@dataclass(frozen=True, slots=True)
class BuiltImage:
    """An image that the Engine has now.

    Attributes:
        name: its name and tag.
        id: ``sha256:…`` of its configuration.
        size: bytes of all its layers.
    """

    name: str
    id: str
    size: int


async def build_context(
    context: IO[bytes],
    name: str,
    *,
    dockerfile: str,
    build_args: Mapping[str, str] | None = None,
    no_cache: bool = False,
    labels: Mapping[str, str] | None = None,
    on_line: Callable[[str], object] = lambda line: None,
    timeout: float = BUILD_TIMEOUT,
    url: str | None = None,
) -> BuiltImage:
    """Build an image from a tar archive.

    Cancelling it cancels the build on the Engine.

    Args:
        context: the archive, read from where it stands; it stays the caller's.
        name: of the image.
        dockerfile: its path in the archive.
        build_args: of the Dockerfile, such as ``BASE``.
        no_cache: build every step anew.
        labels: of the image.
        on_line: called with every line of output.
        timeout: seconds for all of it.
        url: of the Engine; ``None``: as the docker command finds it.

    Raises:
        BuildFailed: a step failed, the Engine refused, or it took too long.
        ProviderError: no Engine answers.
    """
    params: dict[str, Any] = {
        "dockerfile": dockerfile,
        "t": name,
        "nocache": int(no_cache),
        "rm": 1,
        "forcerm": 1,
        "buildargs": json.dumps(dict(build_args or {})),
        "labels": json.dumps(dict(labels or {})),
    }
    log = BuildLog(on_line)
    try:
        async with asyncio.timeout(timeout):
            shown = await _build(url, params, context, log)
    except TimeoutError:
        raise _failed(name, log, f"it took longer than {timeout:g} s") from None
    except StreamError as exc:
        log.finish()
        raise _failed(name, log, str(exc)) from None
    return BuiltImage(name, str(shown["Id"]), int(shown["Size"]))


async def _build(
    url: str | None, params: Mapping[str, Any], context: IO[bytes], log: BuildLog
) -> dict[str, Any]:
    """Let the Engine build: what it knows of the image.

    Raises:
        StreamError: a step failed, or the Engine refused.
    """
    headers = {"Content-Type": "application/x-tar"}
    async with opened(url) as docker:
        async with contextlib.aclosing(
            engine_stream(docker, "build", params, headers, context)
        ) as stream:
            async for message in stream:
                log.feed(message)
        log.finish()
        if log.image_id is None:
            raise StreamError("the Engine broke off")
        shown: dict[str, Any] = await docker.images.inspect(log.image_id)
        return shown


def _failed(name: str, log: BuildLog, words: str) -> BuildFailed:
    where = f" in {log.step}" if log.step else ""
    tail = list(log.tail)
    last = f"; its last line: {tail[-1][:300]}" if tail else ""
    return BuildFailed(
        f"{name} was not built: failed{where}: {words[:500]}{last}",
        log_tail="\n".join(tail) or None,
        base_missing="(FROM " in log.step and not tail,
    )
