"""The base image without a clone: a wheel made of the installed package, and images of it."""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import re
import shlex
import subprocess
import sys
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from click.testing import CliRunner

from openenv_async.building.base import base_dockerfile, write_wheel
from openenv_async.cli import main
from openenv_async.errors import TargetNotFound
from tests.providers.engines import docker
from tests.providers.fixtures import engine as engine  # a fixture


def test_the_wheel_has_the_package_with_its_data_and_tells_its_sums(tmp_path: Path) -> None:
    path = write_wheel(tmp_path)
    with zipfile.ZipFile(path) as wheel:
        files = {name: wheel.read(name) for name in wheel.namelist()}
    for needed in (
        "__init__.py",
        "py.typed",
        "building/Dockerfile.base",
        "building/templates/common/server/Dockerfile.tmpl",
    ):
        assert f"openenv_async/{needed}" in files
    assert not [name for name in files if "__pycache__" in name]
    (record,) = (name for name in files if name.endswith("RECORD"))
    rows = list(csv.reader(files[record].decode().splitlines()))
    assert sorted(name for name, *_ in rows) == sorted(files)
    for name, told, size in rows:
        if name != record:
            digest = base64.urlsafe_b64encode(hashlib.sha256(files[name]).digest()).rstrip(b"=")
            assert (told, size) == (f"sha256={digest.decode()}", str(len(files[name])))
    other = tmp_path / "again"
    other.mkdir()
    assert write_wheel(other).read_bytes() == path.read_bytes()  # so the image's layer is kept


def test_pip_installs_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    there = tmp_path / "there"
    subprocess.run([*command, "--target", there, write_wheel(tmp_path)], check=True, timeout=60)
    program = there / "bin" / "openenv-async"
    environ = {**os.environ, "PYTHONPATH": str(there)}
    code = "import openenv_async.building.scaffold as s; print(s._FOLDER); print(s.TEMPLATES)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(str(there))
    assert program.is_file()


def test_a_package_that_is_only_importable_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(TargetNotFound, match="only importable: install it"):
        write_wheel(tmp_path)


def test_the_last_stage_is_that_of_the_clone() -> None:
    text = base_dockerfile()
    assert text.count("FROM ${BASE}") == 2
    assert re.search(r'pip install --quiet "./openenv_async-[\w.-]+\.whl\[fast\]" dumb-init', text)
    assert text.rstrip().endswith('CMD ["openenv-async", "--help"]')
    assert "hatchling" not in text


def printed(folder: Path, program: str = "openenv-async") -> list[str]:
    """The commands that ``init my_env`` prints, run by another program."""
    result = CliRunner().invoke(main, ["init", "my_env", "--into", str(folder)])
    assert result.exit_code == 0, result.output
    commands = [line.strip() for line in result.output.splitlines()[1:]]
    return [command.replace("openenv-async", program, 1) for command in commands]


def run(commands: list[str], folder: Path, environ: dict[str, str], timeout: float) -> str:
    """Run commands in one shell, which ends with the first that fails."""
    done = subprocess.run(
        ["bash", "-e", "-c", "\n".join(commands)],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=timeout,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.heavy
def test_the_printed_commands_that_need_no_network_work_in_their_order(tmp_path: Path) -> None:
    program = f"{shlex.quote(sys.executable)} -m openenv_async.cli"
    left_out = ("pip install", " play ", " build ", " serve ")
    commands = [
        each.replace("python -m", f"{shlex.quote(sys.executable)} -m", 1)
        if each.startswith("python")
        else each
        for each in printed(tmp_path, program)
        if not any(word in each for word in left_out)
    ]
    assert len(commands) == 3
    run(commands, tmp_path, dict(os.environ), 120)


@pytest.mark.heavy
@pytest.mark.docker
@pytest.mark.xdist_group("docker")
@pytest.mark.usefixtures("engine")
def test_from_a_wheel_alone_to_an_image_that_serves(tmp_path: Path) -> None:
    """A fresh virtual environment that has the wheel and no clone on its path."""
    venv.create(tmp_path / "venv", with_pip=True)
    environ = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environ["PATH"] = f"{tmp_path / 'venv' / 'bin'}:{environ['PATH']}"
    install = f"python -m pip install --quiet '{write_wheel(tmp_path)}'"
    run([install], tmp_path, environ, 600)
    told = run(["openenv-async init my_env"], tmp_path, environ, 60)
    commands = [line.strip() for line in told.splitlines()[1:]]
    commands = [each for each in commands if " play " not in each and " serve " not in each]
    tag = "openenv-async-my:from-wheel"
    commands[-1] += f" --quiet --tag {tag}"
    try:
        assert f"built {tag}" in run(commands, tmp_path, environ, 1200)
    finally:
        docker("rmi", "--force", tag)
