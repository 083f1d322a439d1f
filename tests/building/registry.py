"""A real registry, Debian's ``docker-registry``, for tests."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

_CONFIG = """\
version: 0.1
log: {{level: info}}
storage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}
http: {{addr: "127.0.0.1:0"}}
{auth}
"""
_AUTH = "auth: {{htpasswd: {{realm: tests, path: {folder}/htpasswd}}}}"


@contextlib.contextmanager
def registry(folder: Path, htpasswd: str | None = None) -> Iterator[str]:
    """Run one on a free port of the loopback: its ``host:port``.

    Args:
        folder: for its data.
        htpasswd: who may enter; everybody without.
    """
    program = shutil.which("docker-registry")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("docker-registry is not installed")
        pytest.skip("docker-registry is not installed")
    auth = ""
    if htpasswd is not None:
        (folder / "htpasswd").write_text(htpasswd)
        auth = _AUTH.format(folder=folder)
    config = folder / "registry.yml"
    config.write_text(_CONFIG.format(folder=folder, auth=auth))
    process = subprocess.Popen(
        [program, "serve", str(config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={"PATH": os.environ["PATH"], "OTEL_TRACES_EXPORTER": "none"},
    )
    assert process.stderr is not None
    said: list[str] = []
    try:
        address = ""
        for line in process.stderr:
            said.append(line)
            if match := re.search(r"listening on (127\.0\.0\.1:\d+)", line):
                address = match[1]
                break
        assert address, "".join(said)
        reader = threading.Thread(target=lambda: said.extend(process.stderr or ()))
        reader.start()
        yield address
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if "reader" in locals():
            reader.join(20)
        process.stderr.close()
