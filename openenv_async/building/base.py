"""The base image, built from the package that is installed: no clone is needed.

The package's own files are put into a wheel again, which the image installs. The rest of the image
is as ``Dockerfile.base`` says, whose first stage builds from a clone instead.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Final

from openenv_async.building.pip_settings import PIP_ARGUMENT, pip_files
from openenv_async.errors import TargetNotFound
from openenv_async.providers.docker.build import BUILD_TIMEOUT, BuiltImage, build_context
from openenv_async.providers.docker.context import context_tar
from openenv_async.version import __version__

__all__ = ["BASE_IMAGE", "base_dockerfile", "build_base", "write_wheel"]

BASE_IMAGE: Final = "openenv-async-base:latest"
"""The base of images of environments, unless a build says otherwise."""
_PYTHON_VARIABLE: Final = "OPENENV_BASE"
"""Environment variable with the image with Python that the base is made from."""
_PACKAGE: Final = Path(__file__).resolve().parent.parent
_DISTRIBUTION: Final = "openenv-async"
_WHEEL: Final = f"openenv_async-{__version__}-py3-none-any.whl"
_FROM: Final = "\nFROM ${BASE}\n"
_BUILD_STAGE: Final = f"""\
ARG BASE=python:3.11-slim

FROM ${{BASE}} AS build
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
ARG PIP_CONFIG_FILE
ARG PIP_CERT
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY . .
RUN python3 -m venv /opt/venv \\
    && /opt/venv/bin/pip install --quiet "./{_WHEEL}[fast]" dumb-init \\
    && /opt/venv/bin/pip uninstall --quiet --yes setuptools
"""


async def build_base(
    *,
    tag: str = BASE_IMAGE,
    python: str | None = None,
    on_line: Callable[[str], object] = lambda line: None,
    timeout: float = BUILD_TIMEOUT,
    url: str | None = None,
) -> BuiltImage:
    """Build the base image from this installation.

    Args:
        tag: its name.
        python: an image with Python; by default ``$OPENENV_BASE``, else ``python:3.11-slim``.
        on_line: called with every line of output.
        timeout: seconds for all of it.
        url: of the Engine; ``None``: as the docker command finds it.

    Raises:
        TargetNotFound: the package is not installed, so that nothing tells its dependencies.
        BuildFailed: a step failed, the Engine refused, or it took too long.
        ProviderError: no Engine answers.
    """
    python = python or os.environ.get(_PYTHON_VARIABLE)
    arguments = {"BASE": python} if python else {}
    extra = await asyncio.to_thread(pip_files)
    if "pip.conf" in extra:
        arguments[PIP_ARGUMENT] = "pip.conf"
    with tempfile.TemporaryDirectory(prefix="openenv-base-") as name:
        folder = Path(name)
        await asyncio.to_thread(write_wheel, folder)
        (folder / "Dockerfile").write_text(base_dockerfile(), encoding="utf-8")
        with await asyncio.to_thread(context_tar, folder, "Dockerfile", extra) as context:
            return await build_context(
                context,
                tag,
                dockerfile="Dockerfile",
                build_args=arguments,
                on_line=on_line,
                timeout=timeout,
                url=url,
            )


def base_dockerfile() -> str:
    """Return the Dockerfile of the base whose context is the package's wheel."""
    text = Path(__file__).with_name("Dockerfile.base").read_text(encoding="utf-8")
    _, separator, image = text.partition(_FROM)
    assert separator, "Dockerfile.base has no second stage"
    return f"{_BUILD_STAGE}{_FROM}{image}"


def write_wheel(folder: Path) -> Path:
    """Write the installed package as a wheel; return its path.

    Raises:
        TargetNotFound: the package is not installed, so that nothing tells its dependencies.
    """
    try:
        about = metadata.distribution(_DISTRIBUTION).read_text("METADATA")
    except metadata.PackageNotFoundError:
        about = None
    if about is None:
        raise TargetNotFound(
            f"{_DISTRIBUTION} is not installed here, only importable: install it, or build the base"
            " image with Dockerfile.base"
        )
    info = f"openenv_async-{__version__}.dist-info"
    files = {f"openenv_async/{path}": (_PACKAGE / path).read_bytes() for path in _own_files()}
    files |= {
        f"{info}/METADATA": about.encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: openenv_async\n"
        b"Root-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": b"[console_scripts]\nopenenv-async = openenv_async.cli:main\n",
    }
    record = "".join(f"{name},{_digest(data)},{len(data)}\n" for name, data in files.items())
    path = folder / _WHEEL
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        files[f"{info}/RECORD"] = f"{record}{info}/RECORD,,\n".encode()
        for name, data in files.items():
            # One time for all files: the layer of the image is then found again.
            wheel.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return path


def _own_files() -> Iterator[str]:
    """The package's files, by their paths in it, in order."""
    for path in sorted(_PACKAGE.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            yield path.relative_to(_PACKAGE).as_posix()


def _digest(data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=")
    return f"sha256={digest.decode()}"
