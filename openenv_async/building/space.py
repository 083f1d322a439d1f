"""A Hugging Face Space of an environment: its files staged in a folder, and uploaded.

The staged folder is what the Space gets: the environment's files, a ``Dockerfile`` at the root and
a ``README.md`` that begins with the Space's settings. It builds as it is: since a Space cannot have
the base image of this machine, its Dockerfile makes one, of the openenv-async that is installed
here.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from openenv_async.building.build import find_dockerfile
from openenv_async.building.push import PushFailed
from openenv_async.building.space_files import (
    needs_base,
    own_requirement,
    space_dockerfile,
    space_readme,
)
from openenv_async.errors import InvalidOption
from openenv_async.providers.docker.context import context_files
from openenv_async.targets import manifest

__all__ = ["SpaceOptions", "stage_space", "upload_space"]

_NEVER: Final = {".git", ".venv", ".env", "__pycache__", ".pytest_cache", ".mypy_cache"}
_EXTRA: Final = "hub"


@dataclass(frozen=True, slots=True)
class SpaceOptions:
    """The options that a Space is made with.

    Attributes:
        space: ``owner/name``.
        private: whether one that is made new is.
        base_image: a published base image; ``None``: the Space builds its own.
        insecure: let anybody play on it without a token.
        secrets: names of environment variables that become secrets of the Space.
    """

    space: str
    private: bool = False
    base_image: str | None = None
    insecure: bool = False
    secrets: Sequence[str] = ()


def stage_space(folder: Path, staged: Path, options: SpaceOptions) -> list[str]:
    """Stage the environment in ``folder`` for a Space: the relative paths of the files, sorted.

    Args:
        folder: with ``openenv.yaml``. Paths that its ``.dockerignore`` names stay away, and so do
            ``.git``, ``.venv``, ``.env`` and caches.
        staged: a folder that is made, or is empty.

    Raises:
        InvalidOption: ``staged`` has files, or an option makes no sense.
        TargetNotFound: ``folder`` is not an environment.
    """
    owner, slash, name = options.space.partition("/")
    if not (owner and slash and name) or "/" in name:
        raise InvalidOption(f"{options.space!r} is not OWNER/NAME of a Space", option="space")
    _secret_values(options)
    about = manifest.load(folder)
    dockerfile = (folder / find_dockerfile(folder)).read_text("utf-8")
    if staged.exists() and (not staged.is_dir() or any(staged.iterdir())):
        raise InvalidOption(f"{staged} has files already: name a new folder", option="stage")
    staged.mkdir(parents=True, exist_ok=True)
    for path in context_files(folder):
        if _NEVER.isdisjoint(path.split("/")) and not path.endswith((".pyc", ".egg-info")):
            _copy(folder, path, staged)
    is_given = options.base_image is not None or not needs_base(dockerfile)
    requirement = None if is_given else own_requirement(staged)
    text = space_dockerfile(
        dockerfile,
        base_image=options.base_image,
        requirement=requirement,
        insecure=options.insecure,
    )
    (staged / "Dockerfile").write_text(text, "utf-8")
    readme = staged / "README.md"
    own = readme.read_text("utf-8") if readme.is_file() else f"# {about.name}\n"
    readme.write_text(space_readme(own, about), "utf-8")
    return sorted(p.relative_to(staged).as_posix() for p in staged.rglob("*") if p.is_file())


def upload_space(staged: Path, options: SpaceOptions, *, endpoint: str | None = None) -> str:
    """Upload a staged folder to its Space, made if need be: the address of the commit.

    The credentials are those of ``huggingface_hub``: ``HF_TOKEN``, or ``hf auth login``.

    Args:
        staged: by ``stage_space``.
        endpoint: of the Hub, where it is not the usual one.

    Raises:
        PushFailed: the Hub refused it, or ``huggingface_hub`` is not installed.
    """
    try:
        from huggingface_hub import HfApi, errors
    except ModuleNotFoundError as exc:
        raise PushFailed(
            f"pushing to a Space needs huggingface_hub: pip install 'openenv-async[{_EXTRA}]'"
        ) from exc
    api: Any = HfApi(endpoint=endpoint)
    # Its HTTP client changes from release to release; this is the base of what that one raises.
    unreachable: type[Exception] = vars(errors)["HTTPError"]
    secrets = _secret_values(options)
    try:
        api.create_repo(
            options.space,
            repo_type="space",
            space_sdk="docker",
            private=options.private,
            exist_ok=True,
        )
        for name, value in secrets.items():
            api.add_space_secret(options.space, name, value)
        commit = api.upload_folder(
            repo_id=options.space,
            repo_type="space",
            folder_path=staged,
            commit_message="Push the environment",
        )
    except (errors.HFValidationError, errors.LocalTokenNotFoundError) as exc:
        raise PushFailed(f"{options.space} was not pushed: {_words(exc)}") from None
    except errors.HfHubHTTPError as exc:
        hint = ""
        if exc.response.status_code in (401, 403):
            hint = "; log in with `hf auth login`, or set HF_TOKEN to a token that may write"
        raise PushFailed(f"{options.space} was not pushed: {_words(exc)}{hint}") from None
    except (unreachable, OSError) as exc:
        raise PushFailed(
            f"{options.space} was not pushed: the Hub does not answer ({_words(exc)})",
            retryable=True,
        ) from None
    return str(commit.commit_url)


def _secret_values(options: SpaceOptions) -> dict[str, str]:
    values: dict[str, str] = {}
    for name in options.secrets:
        value = os.environ.get(name)
        if not value:
            raise InvalidOption(f"the variable {name} is not set: a secret takes its value")
        values[name] = value
    return values


def _copy(folder: Path, path: str, staged: Path) -> None:
    source = (folder / path).resolve()
    if not source.is_relative_to(folder.resolve()):
        raise InvalidOption(f"{path} is a link out of the folder: a Space gets files only")
    if source.is_file():
        target = staged / path
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)


def _words(exc: Exception) -> str:
    return " ".join(str(exc).split())[:500]
