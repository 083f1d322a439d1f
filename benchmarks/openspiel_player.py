"""One run of ``openspiel.py``: serves tic-tac-toe, plays it and prints figures as JSON.

It is run as a file, ``openspiel_player.py sessions|vector GAMES SECONDS``, so that the package of
any revision may stand in ``PYTHONPATH``.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from typing import Any

import uvloop

WARM_UP = 0.5  # seconds


def cpu_of(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def play(env: Any, until: float, rng: random.Random) -> int:
    from openspiel_env import OpenSpielAction

    steps = 0
    while time.perf_counter() < until:
        result = await env.reset(seed=rng.randrange(1 << 30))
        while not result.done:
            legal = result.observation.legal_actions
            result = await env.step(OpenSpielAction(rng.choice(legal)))
            steps += 1
    return steps


async def play_rows(env: Any, until: float, rng: random.Random) -> int:
    import numpy as np

    steps, draws = 0, np.random.default_rng(rng.randrange(1 << 30))
    rows = (await env.reset(seed=rng.randrange(1 << 30))).observation
    while time.perf_counter() < until:
        masks = rows["observations"]["legal_actions_mask"]
        actions = (draws.random(masks.shape) * masks).argmax(axis=1)
        rows = (await env.step(actions)).observation
        given = rows.get("given")  # a row that begins anew makes no move
        steps += len(masks) if given is None else int(np.sum(given))
    return steps


async def run(url: str, pid: int, form: str, games: int, seconds: float) -> None:
    if form == "vector":
        from openenv_async import EnvClient

        envs: list[Any] = [EnvClient(url)]
    else:
        from openspiel_env import OpenSpielEnv

        envs = [OpenSpielEnv(url) for _ in range(games)]
    player = play_rows if form == "vector" else play
    rngs = [random.Random(number) for number in range(len(envs))]
    warm = time.perf_counter() + WARM_UP
    await asyncio.gather(*(player(env, warm, rng) for env, rng in zip(envs, rngs, strict=True)))
    server, client, begun = cpu_of(pid), time.process_time(), time.perf_counter()
    counts = await asyncio.gather(
        *(player(env, begun + seconds, rng) for env, rng in zip(envs, rngs, strict=True))
    )
    taken, steps = time.perf_counter() - begun, sum(counts)
    client, server = time.process_time() - client, cpu_of(pid) - server
    for env in envs:
        await env.close()
    json.dump(
        {"rate": steps / taken, "client": client / steps * 1e6, "server": server / steps * 1e6},
        sys.stdout,
    )


def main(form: str, games: int, seconds: float) -> None:
    target = ["openspiel"]
    if form == "vector":
        target = ["openspiel_env.vector:OpenSpielVectorEnvironment", "--param", f"num_envs={games}"]
    command = [sys.executable, "-W", "ignore", "-m", "openenv_async.cli", "serve", *target]
    command += ["--param", "game_name=tic_tac_toe", "--port", "0", "--json"]
    server = subprocess.Popen(
        [*command, "--until-stdin-closes"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        url = json.loads(server.stdout.readline())["url"]
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run(url, server.pid, form, games, seconds))
    finally:
        server.stdin.close()
        server.wait(timeout=30)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]))
