"""``openenv-async push``: an environment to a registry or to a Hugging Face Space."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import click

from openenv_async.cli.build import build_arg_option, said
from openenv_async.cli.options import SECONDS, examples
from openenv_async.cli.output import echo

__all__ = ["push"]


@click.command(
    epilog=examples(
        "push ./my_env --registry ghcr.io/my-name",
        "push ./my_env --registry localhost:5000 --tag 1.2",
        "push --image my-env:1.2 --registry localhost:5000",
        "push ./my_env --space my-name/my-env --private",
        "push ./my_env --space my-name/my-env --dry-run --stage staged",
    )
)
@click.argument(
    "path", default=Path(), type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("--registry", metavar="HOST[:PORT][/PATH]", help="Push the image there.")
@click.option("--space", metavar="OWNER/NAME", help="Push the files to this Hugging Face Space.")
@click.option("--tag", metavar="TAG", help="Of the image in the registry.  [default: latest]")
@click.option("--image", help="Push this image, which is there already, and build none.")
@build_arg_option
@click.option("--no-cache", is_flag=True, help="Build every step anew.")
@click.option("--private", is_flag=True, help="A Space that is made new is private.")
@click.option("--base-image", help="A published base for the Space; else it builds its own.")
@click.option("--insecure", is_flag=True, help="Let anybody play on the Space without a token.")
@click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="NAME",
    help="Secret of the Space, taken from the variable of that name. Repeatable.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be pushed, and push nothing.")
@click.option(
    "--stage",
    type=click.Path(file_okay=False, path_type=Path),
    help="Stage the Space's files in this new folder, and keep it.",
)
@click.option("--timeout", type=SECONDS, default=3600.0, show_default=True, help="For the push.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def push(
    path: Path,
    registry: str | None,
    space: str | None,
    tag: str | None,
    image: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Push the environment in the folder PATH to a registry or to a Hugging Face Space.

    To a registry: the image is built, named HOST/openenv-async-NAME:TAG and pushed with the
    credentials of docker login. To a Space: the folder's files, a Dockerfile and a README with
    the Space's settings are uploaded with the credentials of hf auth login or HF_TOKEN.

    Exit codes: 0 pushed; 1 it failed; 2 a wrong value.
    """
    if (registry is None) == (space is None):
        raise click.UsageError("say where to: --registry HOST or --space OWNER/NAME")
    if registry is not None:
        result = _to_registry(path, registry, tag, image, **options)
        text = f"pushed {result['image']} ({result['digest']})"
        if options["dry_run"]:
            text = f"would push {result['image']}"
    else:
        assert space is not None
        if image is not None or tag is not None:
            raise click.UsageError("--image and --tag belong to --registry")
        result = _to_space(path, space, **options)
        text = "\n".join([*result["files"], f"{len(result['files'])} files, nothing was pushed"])
        if result["url"] is not None:
            text = f"pushed {len(result['files'])} files to {result['url']}"
    echo(json.dumps(result) if as_json else text)


def _to_registry(
    path: Path, registry: str, tag: str | None, image: str | None, **options: Any
) -> dict[str, Any]:
    from openenv_async.building import build_image, image_name, push_image, registry_name
    from openenv_async.cli.playing import run

    folder = path.resolve()
    name = image or image_name(folder)
    target = registry_name(name, registry, tag)
    say = said(options["quiet"])
    if options["dry_run"]:
        return {"image": target, "digest": None}

    async def main() -> str:
        if image is None:
            await build_image(
                folder,
                build_args=options["build_args"],
                no_cache=options["no_cache"],
                on_line=say,
            )
        return await push_image(name, target, on_line=say, timeout=options["timeout"] or 86_400.0)

    return {"image": target, "digest": run(main())}


def _to_space(path: Path, space: str, **options: Any) -> dict[str, Any]:
    from openenv_async.building import SpaceOptions, stage_space, upload_space

    settings = SpaceOptions(
        space,
        private=options["private"],
        base_image=options["base_image"],
        insecure=options["insecure"],
        secrets=options["secrets"],
    )
    with tempfile.TemporaryDirectory(prefix="openenv-space-") as temporary:
        staged = options["stage"] or Path(temporary) / "space"
        files = stage_space(path.resolve(), staged, settings)
        url = None if options["dry_run"] else upload_space(staged, settings)
    return {"space": space, "files": files, "url": url}
