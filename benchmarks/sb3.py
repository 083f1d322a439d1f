"""Stable-Baselines3's PPO through each way to its environments: the same run, and how long it took.

    python -m benchmarks.sb3 --base REVISION

trains on CartPole with 8 and with 64 environments, and on Pong with 16, of ``gymnasium.make`` with
frames of 210 × 160 × 3 bytes. Each side is a process, and they take turns, round after round; timed
is ``learn`` alone, so neither starting servers nor making networks. The sides:

- ``local``: ``DummyVecEnv``, the environments in the process that learns: what the others are held
  against;
- ``subprocesses``: ``SubprocVecEnv``, a process for each environment (Pong alone);
- ``before``: ``OpenEnvVecEnv`` of an earlier revision, which is checked out for the run;
- ``served``: ``OpenEnvVecEnv`` of this revision, the environments one session each in a server of
  this machine;
- ``tcp``: the same by TCP alone, as from another machine;
- ``workers``: the same in two worker processes of the server;
- ``vector``: ``OpenEnvVecEnv`` of one session that is a vector, ``SyncVectorEnv`` in the server.

The same seed must give the same run: rewards, ends of episodes and the weights that were learnt are
compared bit by bit with the local side's, and a side that differs is told and fails the run.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

ROOT: Final = Path(__file__).resolve().parent.parent
TIMEOUT: Final = 60.0
MARK: Final = "measured: "
SEED: Final = 7
REFERENCE: Final = "local"
NAME: Final = "gymnasium-inline"


@dataclass(frozen=True)
class Game:
    """A workload: the environments, and the arguments of the algorithm.

    Attributes:
        id: as for ``gymnasium.make``.
        policy: Stable-Baselines3's name of it.
        num_envs: by default.
        steps: of all environments together.
        make_kwargs: what ``gymnasium.make`` is given beside the id.
        smaller: learn from each second pixel: the frames that travel stay whole.
        ppo: arguments of the algorithm.
    """

    id: str
    policy: str
    num_envs: tuple[int, ...]
    steps: int
    make_kwargs: dict[str, Any]
    smaller: bool
    ppo: dict[str, Any]


GAMES: Final = {
    "cartpole": Game(
        "CartPole-v1",
        "MlpPolicy",
        (8, 64),
        20_000,
        {},
        False,
        {"n_steps": 64, "batch_size": 256, "n_epochs": 10},
    ),
    "pong": Game(
        "ale_py:ALE/Pong-v5",
        "CnnPolicy",
        (16,),
        1_024,
        {"max_episode_steps": 25},
        True,
        {"n_steps": 32, "batch_size": 256, "n_epochs": 4},
    ),
}


# -- one side, in a process of its own --------------------------------------------------------


@contextlib.contextmanager
def local(game: Game, count: int, cls: str) -> Iterator[Any]:
    import gymnasium
    from stable_baselines3.common import vec_env

    def make() -> Any:
        return gymnasium.make(game.id, **game.make_kwargs)

    env = getattr(vec_env, cls)([make] * count)
    try:
        yield env
    finally:
        env.close()


@contextlib.contextmanager
def served(game: Game, count: int, *arguments: str, name: str = NAME) -> Iterator[Any]:
    from openenv_async.integrations.sb3 import OpenEnvVecEnv

    env = OpenEnvVecEnv(
        name,
        count,
        params={"id": game.id, **game.make_kwargs},
        server_arguments=arguments,
    )
    try:
        yield env
    finally:
        env.close()


SIDES: Final[dict[str, Any]] = {
    "local": lambda game, count: local(game, count, "DummyVecEnv"),
    "subprocesses": lambda game, count: local(game, count, "SubprocVecEnv"),
    "before": served,
    "served": served,
    "tcp": lambda game, count: served(game, count, "--no-local"),
    "workers": lambda game, count: served(game, count, "--workers", "2", name="gymnasium"),
    "vector": lambda game, count: served(
        game,
        count,
        "--vector",
        str(count),
        *_of("autoreset_mode=same_step", "vectorization_mode=sync"),
    ),
}


def _of(*params: str) -> list[str]:
    return [word for param in params for word in ("--param", param)]


def smaller(env: Any) -> Any:
    """Return an environment that shows each second pixel."""
    from gymnasium import spaces
    from stable_baselines3.common.vec_env import VecEnvWrapper

    class Smaller(VecEnvWrapper):
        def __init__(self, venv: Any) -> None:
            height, width, colours = venv.observation_space.shape
            shape = (height + 1) // 2, (width + 1) // 2, colours
            super().__init__(venv, spaces.Box(0, 255, shape, np.uint8))

        def reset(self) -> Any:
            observations: Any = self.venv.reset()
            return observations[:, ::2, ::2]

        def step_wait(self) -> Any:
            observations: Any
            observations, rewards, dones, infos = self.venv.step_wait()
            for info in infos:
                if "terminal_observation" in info:
                    info["terminal_observation"] = info["terminal_observation"][::2, ::2]
            return observations[:, ::2, ::2], rewards, dones, infos

    return Smaller(env)


def train(game: Game, side: str, count: int, steps: int) -> dict[str, Any]:
    """Train once; return the seconds it took and digests of what came of it."""
    import torch
    from stable_baselines3 import PPO
    from stable_baselines3.common.callbacks import BaseCallback

    torch.set_num_threads(1)
    digest, returns = hashlib.sha256(), []
    running = np.zeros(count)

    class Kept(BaseCallback):
        def _on_step(self) -> bool:
            rewards, dones = self.locals["rewards"], self.locals["dones"]
            digest.update(np.asarray(rewards, np.float32).tobytes())
            digest.update(np.asarray(dones, np.bool_).tobytes())
            running.__iadd__(rewards)
            returns.extend(running[dones].tolist())
            running[dones] = 0.0
            return True

    with SIDES[side](game, count) as env:
        env = smaller(env) if game.smaller else env
        model = PPO(game.policy, env, seed=SEED, device="cpu", **game.ppo)
        begun, used = time.perf_counter(), time.process_time()
        model.learn(steps, callback=Kept())
        seconds, used = time.perf_counter() - begun, time.process_time() - used
    weights = hashlib.sha256()
    for tensor in model.policy.state_dict().values():
        weights.update(tensor.numpy().tobytes())
    return {
        "seconds": seconds,
        "cpu": used,
        "episodes": len(returns),
        "return": statistics.mean(returns) if returns else None,
        "came": [digest.hexdigest()[:16], weights.hexdigest()[:16]],
    }


# -- all of them ------------------------------------------------------------------------------


@contextlib.contextmanager
def tree_of(base: str | None) -> Iterator[Path | None]:
    """An earlier revision checked out, if one is asked for."""
    if base is None:
        yield None
        return
    from benchmarks.revisions import checked_out

    with checked_out(base) as tree:
        yield tree


class SideProcess:
    """The process of one side, which trains when it is told to.

    Args:
        side: a key of ``SIDES``.
        tree: where its packages are.
    """

    def __init__(self, side: str, tree: Path) -> None:
        self.side = side
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  # closed with the process
        path = os.pathsep.join(map(str, (tree, tree / "environments/gymnasium")))
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "--side", side],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def train(self, name: str, count: int, steps: int) -> dict[str, Any]:
        """One run.

        Raises:
            RuntimeError: it failed; the message ends with what it said.
        """
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps([name, count, steps]) + "\n")
            process.stdin.flush()
        for line in process.stdout:
            if line.startswith(MARK):
                measured: dict[str, Any] = json.loads(line[len(MARK) :])
                return measured
        self._errors.seek(0)
        raise RuntimeError(f"{self.side} failed:\n{self._errors.read()[-2000:]}")

    def close(self) -> None:
        """End it, and whatever servers it runs."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(TIMEOUT)
        finally:
            self._process.kill()
            self._process.wait()
            self._errors.close()


def serve_side(side: str) -> None:
    """Train as each line of the standard input says, until it ends."""
    for line in sys.stdin:
        name, count, steps = json.loads(line)
        print(MARK + json.dumps(train(GAMES[name], side, count, steps)), flush=True)


def table(title: str, rounds: dict[str, list[dict[str, Any]]]) -> bool:
    """Print the rows of one workload; return whether all sides gave the same run."""
    print(title)
    print(f"{'':16} {'seconds':>8} {'range':>15} {'× local':>8} {'range':>13}  the same run")
    same, expected = True, rounds[REFERENCE][0]["came"]
    for side, runs in rounds.items():
        times = sorted(each["seconds"] for each in runs)
        ratios = sorted(
            each["seconds"] / beside["seconds"]
            for each, beside in zip(runs, rounds[REFERENCE], strict=True)
        )
        equal = all(each["came"] == expected for each in runs)
        same = same and equal
        print(
            f"{side:16} {statistics.median(times):8.2f} {times[0]:7.2f}-{times[-1]:7.2f}"
            f" {statistics.median(ratios):8.2f} {ratios[0]:6.2f}-{ratios[-1]:6.2f}"
            f"  {'yes' if equal else 'NO'}, {runs[0]['episodes']} episodes,"
            f" return {runs[0]['return'] or 0:.2f}",
            flush=True,
        )
    return same


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--base", help="an earlier revision, for the side 'before'")
    parser.add_argument("--game", action="append", choices=GAMES, help="may be repeated")
    parser.add_argument("--num-envs", type=int)
    parser.add_argument("--steps", type=int, help="of all environments together")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", action="append", default=[], choices=SIDES)
    parser.add_argument("--json", action="store_true", help="every run, as JSON")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        serve_side(args.side)
        return 0
    same, kept = True, {}
    with contextlib.ExitStack() as stack:
        before = stack.enter_context(tree_of(args.base))
        running: dict[str, SideProcess] = {}
        for side in SIDES:
            wanted = not args.only or side in args.only or side == REFERENCE
            if wanted and (side != "before" or before is not None):
                tree = before if before is not None and side == "before" else ROOT
                running[side] = SideProcess(side, tree)
                stack.callback(running[side].close)
        for name in args.game or GAMES:
            game = GAMES[name]
            steps = args.steps or game.steps
            sides = [side for side in running if side != "subprocesses" or game.smaller]
            for count in (args.num_envs,) if args.num_envs else game.num_envs:
                rounds: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
                load = os.getloadavg()[0]
                for number in range(args.rounds):
                    first = number % len(sides)
                    for side in sides[first:] + sides[:first]:
                        rounds[side].append(running[side].train(name, count, steps))
                kept[f"{name}, {count}"] = rounds
                title = (
                    f"{name}, {count} environments, PPO, {steps:,} steps, {args.rounds} rounds,"
                    f" load {load:.1f} to {os.getloadavg()[0]:.1f}"
                )
                same = table(title, rounds) and same
    if args.json:
        print(json.dumps(kept, indent=2))
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
