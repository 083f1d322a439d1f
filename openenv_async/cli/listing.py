"""``openenv-async list``: what there is to play on."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from typing import Any, Final

import click

from openenv_async.cli.options import examples
from openenv_async.cli.output import console, echo

__all__ = ["docker_says", "list_everything"]

_LOOK: Final = 3.0
_LABEL: Final = "openenv_async.run"
_BASE: Final = "openenv_async.read_only"
"""Label of the base image, and so of every image that is built on it."""


@click.command("list", epilog=examples("list", "list --json"))
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
def list_everything(as_json: bool) -> None:
    """List installed environments, their container images, and the workers that run.

    Without a Docker Engine it lists what is installed.

    Exit codes: 0 always.
    """
    from openenv_async.cli.playing import run
    from openenv_async.targets.auto import AutoEnv

    environments = AutoEnv.list_environments()
    found = run(docker_says())
    if as_json:
        about = [
            {
                "name": e.name,
                "version": e.version,
                "package": e.package,
                "description": e.description,
            }
            for e in environments
        ]
        echo(json.dumps({"environments": about, **found}, indent=2))
        return
    from rich.table import Table

    shown_on = console()

    def show(title: str, rows: Sequence[tuple[str, ...]], *heads: str) -> None:
        table = Table(*heads, title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
        for row in rows:
            table.add_row(*row)
        shown_on.print(table)

    if environments:
        show(
            "Environments",
            [(each.name, each.version, each.description) for each in environments],
            *("name", "version", "description"),
        )
    else:
        shown_on.print(
            "No environment is installed: pip install ./environments/echo of a clone, for one"
        )
    if found["docker"] is not None:
        shown_on.print(f"Images and workers: {found['docker']}")
        return
    if found["images"]:
        rows = [(each["name"], f"{each['size'] / 1e6:,.0f} MB") for each in found["images"]]
        show("Images", rows, "name", "size")
    else:
        shown_on.print("Images: none; `openenv-async build` makes one")
    if found["workers"]:
        workers = [(each["name"], each["image"], each["status"]) for each in found["workers"]]
        show("Workers", workers, "name", "image", "status")
    else:
        shown_on.print("Workers: none runs")


async def docker_says() -> dict[str, Any]:
    """Images and workers; ``docker`` has what is wrong where the Engine tells nothing."""
    from aiodocker import DockerError

    from openenv_async.providers.docker.address import find_engine
    from openenv_async.providers.docker.calls import EngineError

    nothing: dict[str, Any] = {"images": [], "workers": []}
    try:
        address = find_engine()
        docker = address.connect()
    except EngineError as exc:
        return {"docker": exc.message, **nothing}
    try:
        async with asyncio.timeout(_LOOK):
            images = await docker.images.list(filters={"label": [_BASE]})
            containers = await docker.containers.list()
            workers = [_worker(each._container) for each in containers]
    except (DockerError, OSError, TimeoutError, ValueError) as exc:
        return {"docker": address.no_answer(exc.__context__), **nothing}
    finally:
        with contextlib.suppress(Exception):
            await docker.close()
    return {
        "docker": None,
        "images": sorted(
            (
                {"name": name, "size": image["Size"]}
                for image in images
                for name in image.get("RepoTags") or ()
                if not name.startswith(("<none>", "openenv-async-base"))
            ),
            key=lambda each: str(each["name"]),
        ),
        "workers": [each for each in workers if each is not None],
    }


def _worker(container: dict[str, Any]) -> dict[str, str] | None:
    """A container of ours; others are nobody's business."""
    labels = container.get("Labels") or {}
    if _LABEL not in labels:
        return None
    return {
        "name": container["Names"][0].lstrip("/"),
        "image": container["Image"],
        "status": container["Status"],
    }
