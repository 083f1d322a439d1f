"""The reward of an episode: the tests of its task, run in the container that the agent had.

Rules (Harbor 0.26.0, ``verifier/verifier.py``), in this order:

1. Reward files that are there are removed, as root.
2. The task's tests are copied to ``/tests``, and ``test.sh`` is made executable, as root.
3. ``test.sh`` runs with ``verifier.env`` as ``verifier.user`` in the container's folder; its output
   goes to ``/logs/verifier/test-stdout.txt``, and its exit code decides nothing.
4. ``/logs/verifier/reward.json`` is read if it is there: an object of finite numbers; else
   ``reward.txt``: one finite number. Anything else is an error; it never counts as 0.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from openenv_async.compat.harbor.archives import folder_archive
from openenv_async.compat.harbor.folders import HarborTask
from openenv_async.errors import NoReward, ProviderError
from openenv_async.providers.docker.sandbox import Sandbox

__all__ = ["Grade", "grade", "read_rewards", "the_reward"]

LOGS: Final = "/logs/verifier"
_JSON: Final = f"{LOGS}/reward.json"
_TEXT: Final = f"{LOGS}/reward.txt"
_STDOUT: Final = f"{LOGS}/test-stdout.txt"
_TESTS: Final = "/tests"
_SHORT: Final = 60.0
"""Seconds for the commands around the tests."""
_MAX_REWARD_SIZE: Final = 1024 * 1024
_TOLD: Final = 4096
"""Bytes at the end of the tests' output that are kept."""


@dataclass(frozen=True, slots=True)
class Grade:
    """The outcome of a task's tests.

    Attributes:
        rewards: by name; a single number is called ``reward``.
        exit_code: of ``test.sh``.
        output: the end of what it wrote.
    """

    rewards: Mapping[str, float]
    exit_code: int | None
    output: str


async def grade(
    box: Sandbox, task: HarborTask, env: Mapping[str, str], *, folder: str, user: str | int | None
) -> Grade:
    """Run a task's tests.

    Args:
        box: the container that the agent had.
        task: that it worked on.
        env: of the tests, filled in.
        folder: that they begin in.
        user: who runs them; by default the container's user.

    Raises:
        NoReward: they gave none, or ran out of time.
        EngineError: the container is gone.
    """
    verifier = task.config.verifier
    for each in verifier.collect:
        await _must(box, each.command, user=each.user, timeout=each.timeout_sec, folder=folder)
    await _must(box, f"rm -f -- {_TEXT} {_JSON}", user="root")
    archive = await asyncio.to_thread(folder_archive, task.tests, _TESTS.strip("/"))
    await box.put(archive, "/")
    await _must(box, f"chmod +x {_TESTS}/test.sh", user="root")
    done = await box.run(
        f"({_TESTS}/test.sh) > {_STDOUT} 2>&1",
        timeout=verifier.timeout_sec,
        folder=folder,
        env=env,
        user=user,
    )
    output = await _tail(box)
    if done.timed_out:
        raise NoReward(
            f"the tests of {task.id} ran longer than verifier.timeout_sec ="
            f" {verifier.timeout_sec:g}: give them more time, or correct the task",
            log_tail=output or None,
        )
    try:
        structured = await box.read_file(_JSON, _MAX_REWARD_SIZE)
        plain = None if structured is not None else await box.read_file(_TEXT, _MAX_REWARD_SIZE)
        rewards = read_rewards(structured, plain)
    except (ValueError, ProviderError) as exc:
        raise NoReward(
            f"the tests of {task.id} gave no reward: {exc} (exit code {done.exit_code})",
            log_tail=output or None,
            exit_code=done.exit_code,
        ) from exc
    return Grade(rewards, done.exit_code, output)


async def _must(
    box: Sandbox,
    command: str,
    *,
    user: str | int | None,
    timeout: float = _SHORT,
    folder: str = "/",
) -> None:
    """Run a command without which the tests would grade something else."""
    done = await box.run(command, timeout=timeout, user=user, folder=folder)
    if done.exit_code != 0:
        raise NoReward(
            f"what comes before the tests failed: {command!r:.200} ended with"
            f" {'its time' if done.timed_out else done.exit_code}: {done.output[-200:].strip()}"
        )


async def _tail(box: Sandbox) -> str:
    done = await box.run(f"tail -c {_TOLD} {_STDOUT}", timeout=_SHORT, user="root")
    return done.output if done.exit_code == 0 else ""


def read_rewards(structured: bytes | None, plain: bytes | None) -> dict[str, float]:
    """Return the rewards of the two files; ``None`` is a file that is not there.

    Raises:
        ValueError: there is none in them; the message says why.
    """
    if structured is not None:
        return _of_json(structured)
    if plain is None:
        raise ValueError(f"they wrote neither {_JSON} nor {_TEXT}")
    if not plain:
        raise ValueError(f"{_TEXT} is empty")
    try:
        value = float(plain.decode())
    except ValueError:
        raise ValueError(f"{_TEXT} is not a number: {_shown(plain)}") from None
    if not math.isfinite(value):
        raise ValueError(f"{_TEXT} is {value}, which is not a finite number")
    return {"reward": value}


def _of_json(octets: bytes) -> dict[str, float]:
    if not octets:
        raise ValueError(f"{_JSON} is empty")
    try:
        found: Any = json.loads(octets)
    except (ValueError, RecursionError):
        raise ValueError(f"{_JSON} is not JSON: {_shown(octets)}") from None
    if not isinstance(found, dict) or not found:
        raise ValueError(f"{_JSON} is not an object of numbers: {_shown(octets)}")
    rewards = {}
    for name, value in found.items():
        try:
            number = float(value) if isinstance(value, int | float) else math.nan
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise ValueError(f"{_JSON} has {name} = {value!r:.40}, which is not a finite number")
        rewards[name] = number
    return rewards


def _shown(octets: bytes) -> str:
    return repr(octets[:60].decode("utf-8", "replace"))


def the_reward(rewards: Mapping[str, float], key: str) -> float:
    """Return the one number of an episode: the only reward, or the one of this name.

    Raises:
        NoReward: there are several, and none has the name.
    """
    if len(rewards) == 1:
        return next(iter(rewards.values()))
    if key in rewards:
        return rewards[key]
    raise NoReward(
        f"the tests gave the rewards {', '.join(sorted(rewards))}, and none is called {key}: name"
        " the one that counts, reward_key="
    )
