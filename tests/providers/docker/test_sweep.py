"""Containers of ours on an Engine, and the removal of those without an owner."""

from __future__ import annotations

import time
from typing import Any

from openenv_async.providers.docker.owner import EXPIRES, HOST, PID, RUN, STARTED, this_owner
from openenv_async.providers.docker.sweep import kept_containers, sweep
from tests.providers.docker.fake_engine import FakeEngine


def listed(name: str, created: float = 0.0, **changes: str) -> dict[str, Any]:
    labels = this_owner().labels(3600.0) | {
        {"host": HOST, "pid": PID, "started": STARTED, "expires": EXPIRES, "run": RUN}[key]: value
        for key, value in changes.items()
    }
    return {
        "Id": f"id-{name}",
        "Names": [f"/{name}"],
        "Image": "image",
        "State": "running",
        "Status": "Up",
        "Created": created,
        "Labels": labels,
    }


async def test_owners_are_alive_gone_or_elsewhere() -> None:
    engine = FakeEngine()
    past = str(int(time.time()) - 10)
    engine.listed = [
        listed("mine", 3.0),
        listed("dead", 2.0, started="before"),
        listed("other", 1.0, host="another"),
        listed("expired", 4.0, host="another", expires=past),
        listed("late", 5.0, expires=past),
        {"Id": "x", "Labels": None},
        {"Id": "y", "Labels": {RUN: "r"}},
    ]
    kept = await kept_containers(engine.client())
    assert [each.name for each in kept] == ["other", "dead", "mine", "expired", "late"]
    assert {each.name: each.owner_state for each in kept} == {
        "other": "elsewhere",
        "dead": "gone",
        "mine": "alive",
        "expired": "elsewhere",
        "late": "alive",
    }
    assert [each.name for each in kept if each.is_orphan] == ["dead"]
    assert [each.name for each in kept if each.is_expired] == ["expired"]
    mine = kept[2]
    assert (mine.id, mine.image, mine.state, mine.status) == ("id-mine", "image", "running", "Up")
    assert (mine.created, mine.owner) == (3.0, this_owner())
    assert mine.expires > time.time()


async def test_what_the_engine_leaves_out_is_empty() -> None:
    engine = FakeEngine()
    engine.listed = [{"Id": "x", "Labels": this_owner().labels(1.0)}]
    [kept] = await kept_containers(engine.client())
    assert (kept.name, kept.image, kept.state, kept.status, kept.created) == ("", "", "", "", 0.0)


async def test_only_orphans_are_swept_unless_the_expired_are_asked_for() -> None:
    engine = FakeEngine()
    past = str(int(time.time()) - 10)
    engine.listed = [
        listed("mine"),
        listed("dead", started="before"),
        listed("expired", host="another", expires=past),
        listed("other", host="another"),
    ]
    removed = await sweep(engine.client())
    assert [each.name for each in removed] == ["dead"]
    assert engine.removed == ["id-dead"]
    engine.removed.clear()
    removed = await sweep(engine.client(), expired=True)
    assert sorted(engine.removed) == ["id-dead", "id-expired"]
    assert sorted(each.name for each in removed) == ["dead", "expired"]
