"""The owner of a container, as its labels say."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from openenv_async.providers.docker import owner as module
from openenv_async.providers.docker.owner import (
    EXPIRES,
    HOST,
    PID,
    RUN,
    STARTED,
    Owner,
    expires_at,
    this_owner,
)


def test_labels_say_who_owns() -> None:
    owner = this_owner()
    labels = owner.labels(60.0)
    assert Owner.of(labels) == owner
    assert owner.is_here()
    assert owner.is_alive()
    assert expires_at(labels) > expires_at({**labels, "openenv_async.expires": "1"})
    assert expires_at({}) == float("inf")
    assert Owner.of({}) is None
    assert Owner.of({**labels, "openenv_async.owner.pid": "x"}) is None


def test_a_pid_that_is_used_again_is_no_owner() -> None:
    owner = this_owner()
    assert not Owner(owner.run, owner.host, owner.pid, "earlier").is_alive()
    assert not Owner(owner.run, owner.host, 2**22 + 7, owner.started).is_alive()
    assert not Owner(owner.run, "another host", owner.pid, owner.started).is_here()


def test_the_labels_are_the_owner_and_the_end_of_its_time() -> None:
    before = int(time.time())
    labels = Owner("r", "h", 7, "s").labels(100.0)
    assert {**labels, EXPIRES: ""} == {RUN: "r", HOST: "h", PID: "7", STARTED: "s", EXPIRES: ""}
    assert before + 100 <= int(labels[EXPIRES]) <= time.time() + 100


def test_labels_that_lack_something() -> None:
    assert Owner.of({RUN: "r", PID: "7"}) == Owner("r", "", 7, "")
    assert Owner.of({PID: "7"}) is None
    assert Owner.of({RUN: "r"}) is None
    assert Owner.of({RUN: "r", PID: "٧"}) is None, "a digit, but not one of ASCII"
    assert not Owner("r", "h", os.getpid(), "").is_alive()
    assert expires_at({EXPIRES: "soon"}) == float("inf")
    assert expires_at({EXPIRES: "12.5"}) == 12.5


def test_a_process_is_one_owner_and_a_forked_child_another() -> None:
    assert this_owner() is this_owner()
    code = (
        "import os\n"
        "from openenv_async.providers.docker.owner import this_owner\n"
        "mine = this_owner()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(this_owner().run == mine.run or this_owner().pid != os.getpid())\n"
        "raise SystemExit(os.waitpid(child, 0)[1] or this_owner() is not mine)\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_a_zombie_owns_nothing() -> None:
    process = subprocess.Popen(["sleep", "600"])
    started = module._started(process.pid)
    alive = Owner("r", this_owner().host, process.pid, started)
    assert alive.is_alive()
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not alive.is_alive()
    process.wait()
    assert not alive.is_alive()


def test_without_proc_ps_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    first = module._started_by_ps(os.getpid())
    assert first == module._started_by_ps(os.getpid()) != ""
    assert " " not in first
    assert module._started_by_ps(2**22 + 7) == ""
    monkeypatch.setenv("PATH", "")
    assert module._started_by_ps(os.getpid()) == ""
