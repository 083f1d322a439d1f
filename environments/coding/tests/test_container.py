"""Tests of the sandbox, once more: in a default container, as the image's user and as root."""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import coding_env
import pytest

import openenv_async

IMAGE = os.environ.get("OPENENV_TEST_IMAGE", "openenv-async-debian:bookworm")
TESTS = Path(__file__).parent

pytestmark = [pytest.mark.docker, pytest.mark.xdist_group("docker")]


def missing() -> str:
    """Why there is no container to be had; empty if there is one."""
    if shutil.which("docker") is None:
        return "there is no docker command"
    asked = subprocess.run(
        ["docker", "image", "inspect", IMAGE], capture_output=True, text=True, check=False
    )
    return f"docker image inspect {IMAGE}: {asked.stderr}" if asked.returncode else ""


@pytest.mark.parametrize(
    ("user", "tests", "which"),
    [
        ("1000:1000", "test_escapes.py", ""),
        ("0:0", "test_escapes.py", "every_attempt"),
        ("10001:10001", "test_shell.py", ""),
    ],
    ids=["user", "root", "shell"],
)
def test_every_escape_is_stopped_in_a_default_container(user: str, tests: str, which: str) -> None:
    if reason := missing():
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    folders = {
        "/packages": sysconfig.get_path("purelib"),
        "/project/core/openenv_async": os.path.dirname(openenv_async.__file__),
        "/project/coding/coding_env": os.path.dirname(coding_env.__file__),
        "/project/tests": str(TESTS),
        "/project/pyproject.toml": str(TESTS.parents[2] / "pyproject.toml"),
    }
    mounts = [f"--volume={source}:{target}:ro" for target, source in folders.items()]
    done = subprocess.run(
        [
            *("docker", "run", "--rm", "--init", f"--user={user}", "--network=none", *mounts),
            "--env=PYTHONPATH=/project/core:/project/coding:/packages",
            *("--env=PYTHONDONTWRITEBYTECODE=1", "--env=HOME=/tmp", "--workdir=/project", IMAGE),
            *("python3", "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir=/project"),
            *(f"/project/tests/{tests}", "-k", which),
        ],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "passed" in done.stdout
    assert "skipped" not in done.stdout
