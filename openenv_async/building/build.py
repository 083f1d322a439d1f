"""Building an environment's image with a Docker Engine, its output streamed."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from openenv_async.building.base import BASE_IMAGE, build_base
from openenv_async.building.pip_settings import PIP_ARGUMENT, pip_files, wants_pip_settings
from openenv_async.client.env import GenericEnvClient
from openenv_async.errors import OpenEnvError, TargetNotFound
from openenv_async.providers.docker.build import (
    BUILD_TIMEOUT,
    BuildFailed,
    BuiltImage,
    build_context,
)
from openenv_async.providers.docker.context import context_tar
from openenv_async.targets import manifest
from openenv_async.targets.discovery import image_name as conventional

__all__ = [
    "BuildFailed",
    "BuiltImage",
    "build_image",
    "check_image",
    "check_reference",
    "find_dockerfile",
    "image_name",
    "upstream_arguments",
]

_NO_BASE: Final = (
    "; the base image is not there: build it with Dockerfile.base of openenv_async, or give another"
    " with --build-arg BASE=IMAGE"
)
_ARGUMENT: Final = re.compile(r"^ARG\s+(\w+)", re.MULTILINE)
_REFERENCE: Final = re.compile(
    r"(?:[\w.-]+(?::\d+)?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*(?::[\w][\w.-]{0,127})?"
)


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

    Cancelling it cancels the build on the Engine. The base image, where it is that of this package
    and the Engine has none, is built before.

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
    text = (folder / dockerfile).read_text("utf-8")
    arguments = upstream_arguments(text, manifest.load(folder).name) | dict(build_args or {})
    if pip_settings is None:
        pip_settings = wants_pip_settings(text)
    extra = await asyncio.to_thread(pip_files) if pip_settings else {}
    if "pip.conf" in extra:
        arguments.setdefault(PIP_ARGUMENT, "pip.conf")

    async def build() -> BuiltImage:
        with await asyncio.to_thread(context_tar, folder, dockerfile, extra) as context:
            return await build_context(
                context,
                name,
                dockerfile=dockerfile,
                build_args=arguments,
                no_cache=no_cache,
                labels=labels,
                on_line=on_line,
                timeout=timeout,
                url=url,
            )

    try:
        return await build()
    except BuildFailed as exc:
        if not exc.detail.get("base_missing"):
            raise
        if f"={BASE_IMAGE}\n" not in text or "BASE" in arguments:
            raise BuildFailed(f"{exc.message}{_NO_BASE}", log_tail=exc.log_tail) from None
    on_line(f"{BASE_IMAGE} is not there: building it from this installation")
    await build_base(on_line=on_line, timeout=timeout, url=url)
    return await build()


async def check_image(name: str, *, start_timeout: float = 60.0) -> None:
    """Start a container of a built image and open a session in it.

    Raises:
        BuildFailed: it does not start, or serves no environment; with its last log lines.
        ProviderError: no Engine answers.
    """
    try:
        async with GenericEnvClient.from_docker_image(name, start_timeout=start_timeout):
            pass
    except OpenEnvError as exc:
        tail = getattr(exc, "log_tail", None)
        lines = "" if not tail or tail in exc.message else f"; its last lines:\n{tail}"
        raise BuildFailed(
            f"{name} was built, but does not serve: {exc.message}{lines}", log_tail=tail
        ) from exc


def upstream_arguments(dockerfile: str, name: str) -> dict[str, str]:
    """Return the arguments that a Dockerfile in upstream's form asks its builder for.

    Args:
        dockerfile: its text.
        name: of the environment.
    """
    # The folder is all that is sent: upstream's sources are installed from an index.
    known = {"BUILD_MODE": "standalone", "ENV_NAME": name}
    asked = set(_ARGUMENT.findall(dockerfile))
    return {argument: value for argument, value in known.items() if argument in asked}


def check_reference(name: str) -> None:
    """Refuse what can be no image's name, before the Engine is asked.

    Raises:
        BuildFailed: it is none.
    """
    if _REFERENCE.fullmatch(name) is None:
        raise BuildFailed(
            f"{name!r} is not a valid image name: lower case letters, digits, - _ . and one :TAG"
        )
