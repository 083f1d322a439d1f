"""A policy that reads the tasks, against one that answers with random words.

python examples/solve.py --episodes 300
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import random
import re
from collections.abc import Callable
from statistics import fmean, stdev

from chat_env import ChatAction, ChatEnv, ChatObservation

from openenv_async import collect, serve
from openenv_async.rollouts import Turn

FACTS = frozenset(
    (
        *("whale", "fire", "rocket", "anvil", "grandmother", "honey", "thunder", "midnight"),
        *("pillow", "tower", "ocean", "razor", "century", "canyon", "sun", "glacier", "tortoise"),
        *("balloon", "kitten", "library", "sand", "diamond", "ant", "minute", "ball", "seawater"),
        *("mountain", "glue", "dictionary", "sky"),
    )
)
FORMS = (
    ("fruits", "apple, plum, cherry"),
    ("vegetables", "carrot, leek, kale"),
    ("animals", "cat, dog, cow, pig"),
    ("colours", "red, blue"),
    ("metals", "iron, tin, zinc"),
    ("the word yes", "yes, yes, yes"),
    ("the word cat", "c-a-t"),
    ("numbers 1, 2", "[1, 2, 3]"),
    ('"ready"', '{"ready": true}'),
    ("season", "SPRING"),
    ("YYYY-MM-DD", "2024-03-05"),
    ("one question", "How old are you?"),
    ("one half", "0.5"),
    ('"name"', '{"name": "Ada", "age": 36}'),
    ('"city"', '{"city": "Lima", "country": "Peru"}'),
    ("rain", "Rain falls from the clouds."),
    ("greeting", "HELLO"),
    ("planet", "mars"),
    ("legs", "8"),
    ("two words", "Good bye"),
)


def solve(observation: ChatObservation) -> ChatAction:
    """Answers by what the first message asks for."""
    asked = next(m.text for m in observation.messages if m.role == "user")
    if found := re.search(r"(\d+) plus (\d+)", asked):
        return ChatAction(message=str(int(found[1]) + int(found[2])))
    if found := re.search(r": (\w+) or (\w+)\?", asked):
        return ChatAction(message=next(word for word in found.groups() if word in FACTS))
    if found := re.search(r"nothing else: (\w+)", asked):
        return ChatAction(message=found[1])
    if "from 1 to 15" in asked:
        return ChatAction(message=str(halve(observation)))
    return ChatAction(message=next((answer for mark, answer in FORMS if mark in asked), "?"))


def halve(observation: ChatObservation) -> int:
    """The middle of what higher and lower leave."""
    low, high = 1, 15
    said = [m for m in observation.messages if m.role != "system"]
    for mine, answer in zip(said[1::2], said[2::2], strict=True):
        low = int(mine.text) + 1 if answer.text == "Higher." else low
        high = int(mine.text) - 1 if answer.text == "Lower." else high
    return (low + high) // 2


def guess(observation: ChatObservation, turn: Turn) -> ChatAction:
    """Random answers of the right kind: words of the conversation and small numbers."""
    rng = random.Random(f"{turn.index}/{turn.t}")
    words = re.findall(r"\w+", " ".join(m.text for m in observation.messages))
    return ChatAction(message=rng.choice([*words, *map(str, range(1, 25))]))


async def play(episodes: int, split: str) -> dict[str, list[float]]:
    """The returns of both policies on the same seeds; failed episodes are left out."""
    from chat_env.environment import ChatEnvironment

    policies: dict[str, Callable[..., ChatAction]] = {"random": guess, "solver": solve}
    returns: dict[str, list[float]] = {}
    async with serve(ChatEnvironment) as url:
        for name, policy in policies.items():
            returns[name] = [
                outcome.episode_return
                async for outcome in collect(
                    functools.partial(ChatEnv, url),
                    policy,
                    episodes=episodes,
                    seeds=0,
                    concurrency=32,
                    reset_options={"split": split},
                )
                if outcome.episode_return is not None
            ]
    return returns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=300)
    parser.add_argument("--split", default="test")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    returns = asyncio.run(play(args.episodes, args.split))
    if args.json:
        print(json.dumps({name: fmean(values) for name, values in returns.items()}))
        return
    for name, values in returns.items():
        print(f"{name:8} {fmean(values):.3f} ± {stdev(values):.3f} over {len(values)} episodes")


if __name__ == "__main__":
    main()
