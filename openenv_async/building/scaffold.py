"""New environments from templates: a folder that runs, tests itself and validates as it is.

Templates are the files of ``templates/common`` and of ``templates/NAME``, which wins. In them
``{{package}}`` and alike are filled in; ``NAME`` in a file's name is the environment's.
"""

from __future__ import annotations

import importlib.util
import json
import keyword
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from openenv_async.building.base import BASE_IMAGE
from openenv_async.errors import InvalidOption

__all__ = ["TEMPLATES", "check_name", "dockerfile", "filled_files", "scaffold"]

TEMPLATES: Final = {
    "minimal": "a number to guess; seed, reward, end and state in 40 lines",
    "tools": "a question that an agent answers by calling tools; async",
    "gymnasium": "a Gymnasium environment with named actions and observations",
}
_FOLDER: Final = Path(__file__).with_name("templates")
_SUFFIX: Final = ".tmpl"
_LONGEST: Final = 40
_DOCKERFILE: Final = "common/server/Dockerfile"
_BASE_COMMENT: Final = "On the base image of openenv_async; its Dockerfile.base makes it."
_SYSTEM_PACKAGES: Final = """\
USER root
# {comment}
RUN apt-get update -qq \\
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \\
        {packages} \\
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb
USER 10001:10001
"""


def scaffold(name: str, *, template: str = "minimal", into: Path = Path()) -> list[Path]:
    """Write a new environment to the folder ``into/name``.

    Args:
        name: of the package: lower case, digits and ``_``.
        template: one of ``TEMPLATES``.
        into: the folder that gets it; made if need be.

    Returns:
        The files written.

    Raises:
        InvalidOption: the name or the template will not do, or the folder exists; nothing was
            written.
    """
    if template not in TEMPLATES:
        known = ", ".join(TEMPLATES)
        raise InvalidOption(f"there is no template {template!r}; there are {known}")
    check_name(name)
    folder = into / name
    if folder.exists() or folder.is_symlink():
        raise InvalidOption(f"{folder} exists already: take another name or --into another folder")
    words = _words(name, template)
    written = []
    try:
        folder.mkdir(parents=True)
    except OSError as exc:
        raise InvalidOption(f"{folder} cannot be made: {exc.strerror or exc}") from exc
    for path, text in filled_files(template, words).items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        written.append(target)
    return written


def dockerfile(
    entry: str,
    *,
    serve_arguments: Sequence[str] = (),
    base_argument: str = "BASE",
    base_image: str = BASE_IMAGE,
    base_comment: str = _BASE_COMMENT,
    system_packages: Sequence[str] = (),
    packages_comment: str = "",
) -> str:
    """Return the Dockerfile of an environment, from the one template that there is.

    Args:
        entry: the name under which the environment is served.
        serve_arguments: further arguments of ``openenv-async serve``.
        base_argument: the build argument that names the base image.
        base_image: the base image, unless the build says otherwise.
        base_comment: the first line.
        system_packages: what Debian's package manager adds.
        packages_comment: why they are needed.
    """
    words = _image_words(serve_arguments) | {
        "entry": entry,
        "base_argument": base_argument,
        "base_image": base_image,
        "base_comment": base_comment,
    }
    if system_packages:
        words["system_packages"] = _SYSTEM_PACKAGES.format(
            comment=packages_comment, packages=" ".join(system_packages)
        )
    template = (_FOLDER / f"{_DOCKERFILE}{_SUFFIX}").read_text(encoding="utf-8")
    return _fill(template, words)


def filled_files(template: str, words: Mapping[str, str]) -> dict[str, str]:
    """Return the files of a template by their paths, with its words filled in.

    Args:
        template: the name of a folder of templates; its files win over the common ones.
        words: the values of the words in braces; ``stem`` is the name in names of files.
    """
    return {
        path.replace("NAME", words["stem"]): _fill(text, {**_image_words(), **words})
        for path, text in _files(template)
    }


def check_name(name: str) -> None:
    """Refuse names that cannot be a package's, with one that can.

    Raises:
        InvalidOption: with the fix.
    """
    better = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())
    better = re.sub(r"[^a-z0-9]+", "_", better.lower()).strip("_")[:_LONGEST].rstrip("_")
    if better and not better[0].isalpha():
        better = f"env_{better}"
    if not better:
        raise InvalidOption(f"{name!r} is not a valid name for an environment: try my_env")
    why = ""
    if name != better:
        why = "a package's name is lower case letters, digits and _, beginning with a letter"
    elif keyword.iskeyword(name) or keyword.issoftkeyword(name):
        why = "it is a word of Python"
    elif name in sys.stdlib_module_names:
        why = "it is a module of Python's library"
    elif name == "openenv_async" or _is_installed(name):
        why = "an installed package has it"
    if not why:
        return
    while keyword.iskeyword(better) or better in sys.stdlib_module_names or _is_installed(better):
        better += "_env"
    raise InvalidOption(f"{name!r} will not do, {why}: try {better}")


def _is_installed(name: str) -> bool:
    """Return whether a package of this name comes from where packages are installed."""
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None and "site-packages" in spec.origin


def _image_words(serve_arguments: Sequence[str] = ()) -> dict[str, str]:
    """The words of the Dockerfile as an environment without wishes has them."""
    return {
        "base_argument": "BASE",
        "base_image": BASE_IMAGE,
        "base_comment": _BASE_COMMENT,
        "system_packages": "",
        "serve_arguments": "".join(f"{json.dumps(each)}, " for each in serve_arguments),
    }


def _words(name: str, template: str) -> dict[str, str]:
    """Return the values of the words in braces."""
    stem = name.removesuffix("_env") or name
    words = {
        "package": name,
        "stem": stem,
        "entry": stem.replace("_", "-"),
        "Class": "".join(part.capitalize() for part in stem.split("_")),
    }
    about = tomllib.loads(_fill((_FOLDER / template / f"about.toml{_SUFFIX}").read_text(), words))
    needed = about["dependencies"]
    return (
        words
        | _image_words()
        | {
            "description": about["description"],
            "fields": about["fields"].strip(),
            "example": about["example"].strip(),
            "dependencies": ", ".join(f'"{each}"' for each in ["openenv-async", *needed]),
            "manifest_dependencies": ", ".join(f'"{each}"' for each in needed),
        }
    )


def _files(template: str) -> Iterator[tuple[str, str]]:
    """Relative path and text of each file; a file of the template replaces a common one."""
    found: dict[str, Path] = {}
    for folder in (_FOLDER / "common", _FOLDER / template):
        for path in sorted(folder.rglob(f"*{_SUFFIX}")):
            relative = path.relative_to(folder).as_posix().removesuffix(_SUFFIX)
            found[relative.replace("dot.", ".")] = path
    found.pop("about.toml", None)
    for relative, path in found.items():
        yield relative, path.read_text(encoding="utf-8")


def _fill(text: str, words: Mapping[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda match: words[match[1]], text)
