"""Drive an environment through a recorded trajectory again, and say where it first differs."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from openenv_async.client.arguments import reset_arguments
from openenv_async.errors import OpenEnvError
from openenv_async.models import to_builtins
from openenv_async.rollouts.record import Trajectory, snapshot
from openenv_async.rollouts.sessions import client_for

__all__ = ["Difference", "replay"]

_FIELDS: Final = ("observation", "reward", "terminated", "truncated", "info")


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place at which a replay left its record.

    Attributes:
        t: steps taken before: 0 is the reset.
        field: ``observation``, ``reward``, ``terminated``, ``truncated``, ``info``, ``seed`` or
            ``error``.
        path: the place inside it, such as ``.board[3]``; empty for the whole.
        recorded, replayed: what was there and what is there now.
    """

    t: int
    field: str
    path: str
    recorded: Any
    replayed: Any

    def __str__(self) -> str:
        when = "reset" if self.t == 0 else f"step {self.t}"
        was, now = _shown(self.recorded), _shown(self.replayed)
        return f"{when}: {self.field}{self.path} was {was}, is {now}"


async def replay(
    env: Any,
    trajectory: Trajectory,
    *,
    tolerance: float = 0.0,
    ignore: Collection[str] = (),
    reset_options: Mapping[str, Any] | None = None,
    params: Mapping[str, Any] | None = None,
    token: str | None = None,
) -> Difference | None:
    """Reset as recorded, with the same seed, take the recorded actions, compare what comes.

    Args:
        env: an ``EnvClient``, which stays open; for a trajectory read from a file one that takes
            plain actions (``GenericEnvClient``). Or any other target, as for ``rollout``.
        trajectory: may be that of an episode that failed: the steps it has are replayed.
        tolerance: by which numbers may differ.
        ignore: fields that are not compared, such as ``info``.
        reset_options: arguments of ``reset`` beside the recorded ones, or in their place: the
            private columns of a task, which no record has (``task.reset_options``).
        params: constructor arguments of the environment, for a name or a class.
        token: access token, for a URL.

    Returns:
        The first difference; ``None`` when there is none.

    Raises:
        ValueError: the trajectory has no seed, since its reset failed; or ``ignore`` names
            something other than a field.
    """
    unknown = set(ignore) - set(_FIELDS)
    if unknown:
        raise ValueError(f"{sorted(unknown)} cannot be ignored: there are {', '.join(_FIELDS)}")
    if trajectory.seed is None:
        raise ValueError(
            f"episode {trajectory.index} cannot be replayed: its reset failed, so it has no seed"
        )
    async with client_for(env, params, token, "replay()") as client:
        options = {**(trajectory.reset_options or {}), **(reset_options or {})}
        return await _replay(client, trajectory, tolerance, ignore, options)


async def _replay(
    env: Any,
    trajectory: Trajectory,
    tolerance: float,
    ignore: Collection[str],
    reset_options: Mapping[str, Any],
) -> Difference | None:
    steps = [step for step in trajectory.transitions if step.mistake is None]
    observations = [step.observation for step in steps] + [trajectory.final_observation]
    t = 0
    try:
        result = await env.reset(**reset_arguments(reset_options, seed=trajectory.seed))
        episode = getattr(env, "episode", None)
        if episode is not None and episode.seed != trajectory.seed:
            return Difference(0, "seed", "", trajectory.seed, episode.seed)
        begun = {"reward": trajectory.reset_reward, "info": trajectory.reset_info}
        recorded: dict[str, Any] = {"observation": observations[0], **begun}
        while True:
            for field in _FIELDS:
                if field in recorded and field not in ignore:
                    found = _first(recorded[field], getattr(result, field), tolerance)
                    if found is not None:
                        return Difference(t, field, *found)
            if t == len(steps):
                return None
            step = steps[t]
            result = await env.step(snapshot(step.action))
            t += 1
            recorded = {name: getattr(step, name) for name in _FIELDS[1:]}
            recorded["observation"] = observations[t]
    except OpenEnvError as exc:
        return Difference(t, "error", "", None, exc)


def _first(recorded: Any, replayed: Any, tolerance: float) -> tuple[str, Any, Any] | None:
    return _compare(_plain(recorded), _plain(replayed), tolerance, "")


def _plain(value: Any) -> Any:
    """Models as their fields, tuples as lists, as a file would have them; one NaN as a key."""
    return _with_one_nan(to_builtins(value))


def _with_one_nan(tree: Any) -> Any:
    """``tree`` whose keys that are NaN are one object, since no NaN equals another."""
    if isinstance(tree, dict):
        return {math.nan if key != key else key: _with_one_nan(item) for key, item in tree.items()}
    return [_with_one_nan(item) for item in tree] if isinstance(tree, list | tuple) else tree


def _compare(a: Any, b: Any, tolerance: float, path: str) -> tuple[str, Any, Any] | None:
    np = sys.modules.get("numpy")
    if np is not None and (isinstance(a, np.ndarray) or isinstance(b, np.ndarray)):
        return _compare_arrays(np, a, b, tolerance, path)
    if isinstance(a, dict) and isinstance(b, dict):
        for key in [*a, *(key for key in b if key not in a)]:
            if key not in a or key not in b:
                return f"{path}.{key}", a.get(key), b.get(key)
            found = _compare(a[key], b[key], tolerance, f"{path}.{key}")
            if found is not None:
                return found
        return None
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        for i, (left, right) in enumerate(zip(a, b, strict=False)):
            found = _compare(left, right, tolerance, f"{path}[{i}]")
            if found is not None:
                return found
        return None if len(a) == len(b) else (path, list(a), list(b))
    return None if _same(a, b, tolerance) else (path, a, b)


def _same(a: Any, b: Any, tolerance: float) -> bool:
    if isinstance(a, bool) or isinstance(b, bool) or a is None or b is None:
        return a is b or (a is not None and b is not None and bool(a == b))
    if a == b or (a != a and b != b):  # NaN, or the missing date of NumPy
        return True
    try:
        return bool(abs(a - b) <= tolerance)
    except (TypeError, OverflowError):  # no numbers, or beyond floats
        return False


def _compare_arrays(
    np: Any, a: Any, b: Any, tolerance: float, path: str
) -> tuple[str, Any, Any] | None:
    left, right = np.asarray(a), np.asarray(b)
    if left.shape != right.shape or left.dtype != right.dtype:
        return path, a, b
    numbers = left.dtype.kind in "iufc"
    same = left == right
    if left.dtype.kind in "fcmM":
        same |= np.isnan(left) & np.isnan(right)
    if tolerance and numbers:
        same |= np.isclose(left, right, rtol=0.0, atol=tolerance, equal_nan=True)
    if same.all():
        return None
    place = tuple(int(i) for i in np.argwhere(~same)[0])
    return f"{path}{list(place)}" if place else path, left[place].item(), right[place].item()


def _shown(value: Any) -> str:
    text = f"{type(value).__name__}: {value}" if isinstance(value, Exception) else repr(value)
    text = " ".join(text.split())
    return text if len(text) <= 120 else text[:117] + "..."
