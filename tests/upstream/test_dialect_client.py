"""The load client of the comparison, in each of its dialects, at this project's server."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from benchmarks import dialect_client
from benchmarks.compare import read_json_line, spawn
from benchmarks.dialect_client import WAYS, measure
from benchmarks.driver import client_parser


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.ours_server", "--kind", "tools"]
    with spawn(command, None) as server:
        yield str(read_json_line(server, 30)["url"])


@pytest.mark.parametrize("way", WAYS)
async def test_each_way_steps(way: str, address: str) -> None:
    asked = [way, address, "--sessions", "3", "--seconds", "0.5", "--warmup", "0"]

    figures = await measure(client_parser(None, list(WAYS)).parse_args(asked))

    assert figures["count"] > 0


async def test_a_reply_without_the_message_ends_it(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialect_client, "EXPECTED", b"another")
    asked = ["ws", address, "--sessions", "1", "--seconds", "30"]

    with pytest.raises(RuntimeError, match="not what was asked for"):
        await measure(client_parser(None, list(WAYS)).parse_args(asked))
