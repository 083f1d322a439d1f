"""The options of containers, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest

from openenv_async.providers.docker import DockerProvider
from openenv_async.providers.docker.options import Redactor, size


@pytest.mark.parametrize(
    "options",
    [
        {"memory": "much"},
        {"memory": 0},
        {"cpus": 0},
        {"pids": 0},
        {"port": 70000},
        {"env": {"A=B": "1"}},
        {"env": {"OPENENV_TOKEN": "x"}},
        {"env": {"A": "1"}, "secrets": {"A": "2"}},
        {"labels": {"openenv_async.run": "x"}},
        {"pull_policy": "sometimes"},
        {"max_starts": 0},
        {"lifetime": 0},
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        DockerProvider("image", **options)


def test_sizes() -> None:
    assert [size(v) for v in (7, "7", "1k", "1.5m", "2G", "1gb")] == [
        *(7, 7, 1024, 1_572_864, 2 * 2**30, 2**30),
    ]


def test_secrets_are_taken_out_of_text() -> None:
    redact = Redactor(["abc", "abcdef", "first line of it\nsecond line of it", ""])
    assert redact("x abcdef y abc") == "x *** y ***"
    assert redact("log: second line of it") == "log: ***"
