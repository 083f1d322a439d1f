"""Building an environment's image with a Docker Engine, its output streamed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from openenv_async.building.pip_settings import PIP_ARGUMENT, pip_files, wants_pip_settings
from openenv_async.errors import ProviderError, TargetNotFound
from openenv_async.providers.docker.context import context_tar
from openenv_async.providers.docker.progress import BuildLog
from openenv_async.providers.docker.stream import StreamError, engine_stream, opened
from openenv_async.targets import manifest
from openenv_async.targets.discovery import image_name as conventional

__all__ = [
    "BuildFailed",
    "BuiltImage",
    "build_image",
    "check_reference",
    "find_dockerfile",
    "image_name",
]

BUILD_TIMEOUT: Final = 3600.0
_REFERENCE: Final = re.compile(
    r"(?:[\w.-]+(?::\d+)?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*(?::[\w][\w.-]{0,127})?"
)


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


def image_name(folder: Path) -> str:
    """The name by convention, ``openenv-async-NAME:latest``, from the folder's manifest."""
    return conventional(manifest.load(folder).name)


def find_dockerfile(folder: Path) -> str:
    """The path of the Dockerfile inside the folder, as its manifest says.

    Raises:
        TargetNotFound: it is not there.
    """
    named = manifest.load(folder).server.dockerfile
    for path in (named, "server/Dockerfile", "Dockerfile"):
        if (folder / path).is_file():
            return Path(path).as_posix()
    raise TargetNotFound(f"{folder} has no {named}: server.dockerfile in its manifest names one")


async def build_image(
    folder: Path,
    *,
    tag: str | None = None,
    build_args: Mapping[str, str] | None = None,
    no_cache: bool = False,
    pip_settings: bool | None = None,
    labels: Mapping[str, str] | None = None,
    on_line: Callable[[str], object] = lambda line: None,
    timeout: float = BUILD_TIMEOUT,
    url: str | None = None,
) -> BuiltImage:
    """Build the image of the environment in a folder.

    Cancelling it cancels the build on the Engine.

    Args:
        folder: with ``openenv.yaml``; it is the build context.
        tag: of the image; by default the name by convention.
        build_args: of the Dockerfile, such as ``BASE``.
        no_cache: build every step anew.
        pip_settings: whether this machine's pip settings are sent along; ``None``: if the
            Dockerfile asks for them.
        labels: of the image.
        on_line: called with every line of output.
        timeout: seconds for all of it.
        url: of the Engine; ``None``: as the docker command finds it.

    Raises:
        TargetNotFound: the folder has no manifest or no Dockerfile.
        BuildFailed: a step failed, the Engine refused, or it took too long.
        ProviderError: no Engine answers.
    """
    name = tag or image_name(folder)
    check_reference(name)
    dockerfile = find_dockerfile(folder)
    arguments = dict(build_args or {})
    if pip_settings is None:
        pip_settings = wants_pip_settings((folder / dockerfile).read_text("utf-8"))
    extra = await asyncio.to_thread(pip_files) if pip_settings else {}
    if "pip.conf" in extra:
        arguments.setdefault(PIP_ARGUMENT, "pip.conf")
    params: dict[str, Any] = {
        "dockerfile": dockerfile,
        "t": name,
        "nocache": int(no_cache),
        "rm": 1,
        "forcerm": 1,
        "buildargs": json.dumps(arguments),
        "labels": json.dumps(dict(labels or {})),
    }
    log = BuildLog(on_line)
    with await asyncio.to_thread(context_tar, folder, dockerfile, extra) as context:
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


def check_reference(name: str) -> None:
    """Refuse what can be no image's name, before the Engine is asked.

    Raises:
        BuildFailed: it is none.
    """
    if _REFERENCE.fullmatch(name) is None:
        raise BuildFailed(
            f"{name!r} is not a valid image name: lower case letters, digits, - _ . and one :TAG"
        )


def _failed(name: str, log: BuildLog, words: str) -> BuildFailed:
    where = f" in {log.step}" if log.step else ""
    hint = ""
    if "(FROM " in log.step and not log.tail:
        hint = (
            "; the base image is not there: build it with Dockerfile.base of openenv_async, or"
            " give another with --build-arg BASE=IMAGE"
        )
    tail = list(log.tail)
    last = f"; its last line: {tail[-1][:300]}" if tail else ""
    return BuildFailed(
        f"{name} was not built: failed{where}: {words[:500]}{last}{hint}",
        log_tail="\n".join(tail) or None,
    )
