"""The image of a task: there already, pulled, or built once of its folder.

Rules:

- An image is named by a digest of all that it is built of: the files, the names that are mapped and
  the images that they are mapped to. One that the Engine has is not built again.
- However many sessions want it, one builds it; the processes of a machine wait for one another.
- Images stay on the Engine for the next run, with the label ``openenv_async.harbor``.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import Mapping
from typing import IO, Any, Final

from openenv_async.compat.harbor.folders import HarborTask
from openenv_async.providers.docker.build import BuildFailed, build_context
from openenv_async.providers.docker.calls import NoSuchImage
from openenv_async.providers.docker.context import context_tar
from openenv_async.providers.docker.images import ensure_image, host_lock
from openenv_async.providers.docker.sandbox import Sandboxes

__all__ = ["LABEL", "mapped_dockerfile", "task_image"]

LABEL: Final = "openenv_async.harbor"
"""Label of the images that are built of tasks, with the task's id."""
_FROM: Final = re.compile(r"^([ \t]*FROM[ \t]+(?:--\S+[ \t]+)*)(\S+)", re.IGNORECASE | re.MULTILINE)
_PART: Final = 1024 * 1024


async def task_image(owner: Sandboxes, task: HarborTask, images: Mapping[str, str]) -> str:
    """Return the name of a task's image, which the Engine has then.

    Args:
        owner: of the containers; what is asked for together is built once.
        task: whose image it is.
        images: names to use for others, such as those of local images for a registry's.

    Raises:
        BuildFailed: a step failed, or it took longer than ``environment.build_timeout_sec``.
        WorkerStartFailed: an image is neither here nor at its registry.
        ProviderError: no Engine answers.
    """
    given = task.config.environment.docker_image
    if given is not None:
        name = images.get(given, given)
        await owner.once(f"image {name}", lambda: ensure_image(owner.engine, name, "missing", None))
        return name
    return await owner.once(
        f"build {task.folder} {sorted(images.items())}", lambda: _built(owner, task, images)
    )


async def _built(owner: Sandboxes, task: HarborTask, images: Mapping[str, str]) -> str:
    dockerfile, used = mapped_dockerfile(
        (task.environment / "Dockerfile").read_text("utf-8"), images
    )
    extra = {"Dockerfile": dockerfile.encode()}
    context = await asyncio.to_thread(context_tar, task.environment, "Dockerfile", extra)
    with context:
        digest = await asyncio.to_thread(_digest, context)
        for name in used:
            digest.update((await _identity(owner, name)).encode())
        slug = re.sub(r"[^a-z0-9]+", "-", task.id.lower()).strip("-") or "task"
        name = f"openenv-harbor/{slug[:60]}:{digest.hexdigest()[:16]}"
        async with host_lock(f"{owner.engine.url} {name}"):
            with contextlib.suppress(NoSuchImage):
                await owner.engine.image(name)
                return name
            try:
                await build_context(
                    context,
                    name,
                    dockerfile="Dockerfile",
                    labels={LABEL: task.id},
                    timeout=task.config.environment.build_timeout_sec,
                    url=owner.url,
                )
            except BuildFailed as exc:
                if not exc.detail.get("base_missing"):
                    raise
                raise BuildFailed(
                    f"{exc.message}; where its registry cannot be reached, name an image that is"
                    ' here in its place: images={"NAME": "IMAGE"}',
                    log_tail=exc.log_tail,
                ) from None
    return name


def mapped_dockerfile(text: str, images: Mapping[str, str]) -> tuple[str, list[str]]:
    """Return a Dockerfile with other images in its ``FROM`` lines, and which these are."""
    used: list[str] = []

    def mapped(found: re.Match[str]) -> str:
        name = found[2]
        other = images.get(name) or images.get(name.removesuffix(":latest"))
        if other is None:
            return found[0]
        used.append(other)
        return f"{found[1]}{other}"

    return _FROM.sub(mapped, text), used


def _digest(context: IO[bytes]) -> Any:
    digest = hashlib.sha256()
    while part := context.read(_PART):
        digest.update(part)
    context.seek(0)
    return digest


async def _identity(owner: Sandboxes, name: str) -> str:
    """Return what changes when an image does; its name where the Engine has none."""
    with contextlib.suppress(NoSuchImage):
        return str((await owner.engine.image(name))["Id"])
    return name
