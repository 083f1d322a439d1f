"""Cuts at the client's end: the sessions go on over another transport."""

from __future__ import annotations

from openenv_async.benchmarking.chaos.cuts import ConnectionCuts
from openenv_async.client.env import GenericEnvClient
from openenv_async.testing import BenchEnvironment
from tests.behaviours.environments import served
from tests.helpers import until


async def test_every_connection_is_cut_once_and_comes_back() -> None:
    async with (
        served(BenchEnvironment) as (url, _),
        GenericEnvClient(url, share="one") as first,
        GenericEnvClient(url, share="one") as second,
        GenericEnvClient(url, share="two") as third,
    ):
        clients = [first, second, third]
        for client in clients:
            await client.reset()
        cuts = ConnectionCuts(lambda: [None, *(client.connection for client in clients)])
        assert cuts.cut() == 2
        connections = [client.connection for client in clients if client.connection is not None]
        await until(lambda: all(each.reconnects == 1 for each in connections))
        for client in clients:
            assert (await client.step({"message": "on"})).observation["message"] == "on"
