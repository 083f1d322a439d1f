"""Learn which query answers which question: group-relative policy gradient in NumPy.

    python examples/sqlite_grpo.py               # seconds on a CPU, environments in this process
    python examples/sqlite_grpo.py --groups 40   # fewer groups, to see that it runs
    python examples/sqlite_grpo.py --rate 0.3    # another learning rate

The policy is a softmax over twelve queries, linear in the words of the question. It runs the query
that it draws and answers with what comes out. Eight episodes a task make a group, whose mean return
is the baseline of each of them; then it is tried on the questions that it has never seen.
"""

from __future__ import annotations

import argparse
import asyncio
import re
from typing import Any
from zlib import crc32

import numpy as np
from sqlite_questions_env import Answer, Query
from sqlite_questions_env.environment import SqliteQuestions

from openenv_async.rollouts import TaskSet, collect_all, stream_groups

DAYS = "FROM seattle_weather WHERE date LIKE '{month}%'"
STATE = "FROM airports WHERE state = '{name}'"
JOBS = "(SELECT {column} FROM us_employment WHERE month = '{year}-%s-01')"
QUERIES = [
    f"SELECT MAX(temp_max) {DAYS}",
    f"SELECT MIN(temp_min) {DAYS}",
    f"SELECT ROUND(SUM(precipitation), 1) {DAYS}",
    f"SELECT date {DAYS} ORDER BY wind DESC LIMIT 1",
    f"SELECT COUNT(*) {DAYS} AND weather = '{{name}}'",
    f"SELECT COUNT(*) {STATE}",
    f"SELECT iata {STATE} ORDER BY latitude DESC LIMIT 1",
    f"SELECT iata {STATE} ORDER BY latitude LIMIT 1",
    "SELECT city FROM airports WHERE iata = '{name}'",
    f"SELECT ROUND({JOBS % '12'} - {JOBS % '01'}, 1)",
    "SELECT MAX({column}) FROM us_employment WHERE month LIKE '{year}%'",
    "SELECT net_generation FROM iowa_electricity WHERE source = '{name}' AND year = {year}",
]
MONTHS = "January February March April May June July August September October November December"
FEATURES = 512
ENTROPY = 0.2


def places(question: str) -> dict[str, str]:
    """Return what a question names: a month, a year, a name in quotes."""
    year = (re.findall(r"\b\d{4}\b", question) or ["0"])[0]
    month = [f"{year}-{n:02d}" for n, word in enumerate(MONTHS.split(), 1) if word in question]
    name = (re.findall(r"'([^']*)'", question) or [""])[0]
    column = name.replace(" ", "_") or "nothing"
    return {"year": year, "month": (month or ["none"])[0], "name": name, "column": column}


def features(question: str) -> np.ndarray:
    """Return which words a question has: float64 [FEATURES], of length 1."""
    words = re.sub(r"'[^']*'|\d+", "", question).lower().split()
    found = np.zeros(FEATURES)
    found[[crc32(word.encode()) % FEATURES for word in words]] = 1.0
    return found / np.linalg.norm(found)


class Policy:
    """A policy that draws a query for a question and answers with the last line of its rows."""

    def __init__(self, seed: int, rate: float = 1.0) -> None:
        self.rate = rate
        self.weights = np.zeros((FEATURES, len(QUERIES)))
        self.choices: dict[int, tuple[np.ndarray, np.ndarray, int]] = {}
        self.rng = np.random.default_rng(seed)

    def __call__(self, observation: Any, turn: Any) -> Query | Answer:
        if turn.t:
            return Answer(observation.text.splitlines()[-1])
        x = features(observation.text)
        odds = np.exp(x @ self.weights)
        odds /= odds.sum()
        choice = int(self.rng.choice(len(QUERIES), p=odds))
        self.choices[turn.index] = x, odds, choice
        return Query(QUERIES[choice].format(**places(observation.text)))

    def learn(self, index: int, advantage: float) -> None:
        """Make the choice of an episode likelier, or less likely: the gradient of its logarithm."""
        x, odds, choice = self.choices.pop(index)
        towards = advantage * ((np.arange(len(QUERIES)) == choice) - odds)
        surprise = -np.log(odds)  # what keeps the policy trying: the gradient of its entropy
        towards += ENTROPY * odds * (surprise - odds @ surprise)
        self.weights += self.rate * np.outer(x, towards)


async def train(policy: Policy, groups: int) -> list[float]:
    """Learn from groups of eight, and return the mean return of each of them."""
    means: list[float] = []
    tasks = TaskSet("train", shuffle=0)
    async with stream_groups(
        SqliteQuestions, policy, tasks=tasks, group_size=8, groups=groups, seed=0
    ) as stream:
        async for group in stream:
            means.append(group.baseline or 0.0)
            for episode, advantage in zip(group.episodes, group.advantages(), strict=True):
                if advantage is not None:  # what failed teaches nothing
                    policy.learn(episode.outcome.index, advantage)
    return means


async def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--groups", type=int, default=600)
    parser.add_argument("--rate", type=float, default=1.0, help="learning rate")
    chosen = parser.parse_args()
    policy = Policy(seed=0, rate=chosen.rate)
    means = await train(policy, chosen.groups)
    part = max(1, len(means) // 10)
    for start in range(0, len(means), part):
        print(f"groups from {start}: mean return {np.mean(means[start : start + part]):.3f}")
    tested = await collect_all(SqliteQuestions, policy, tasks="test", seeds=0)
    print(f"test: mean return {np.mean([outcome.episode_return for outcome in tested]):.3f}")


if __name__ == "__main__":
    asyncio.run(main())
