"""Environments as a Stable-Baselines3 ``VecEnv``, and buffers that leave failures out.

Rules:

- Stable-Baselines3 counts actions and categories from 0. If a space begins elsewhere, the
  ``VecEnv`` has one that begins at 0, and shifts what passes.
- A reward that is not finite reaches nobody who would take it for one. It is raised; or, with
  ``failures="mask"``, its row is one of those that failed.
- An action that the environment refuses is a mistake of the policy, and data: the environment is
  where it was. ``on_mistake`` says what its row becomes; it is counted either way.
- The reward of a row that failed is not a number, for the buffers and normalizer of this module.
  Algorithms and wrappers that would compute with it are refused when they are made.

Needs the extra ``sb3``.
"""

from __future__ import annotations

import functools
import itertools
import logging
import math
import sys
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, Final, Literal, Self, get_args

try:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.buffers import (
        DictReplayBuffer,
        DictRolloutBuffer,
        ReplayBuffer,
        RolloutBuffer,
    )
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import VecEnvWrapper, VecMonitor, VecNormalize
    from stable_baselines3.common.vec_env.base_vec_env import (
        VecEnv,
        VecEnvIndices,
        VecEnvObs,
        VecEnvStepReturn,
    )
except ModuleNotFoundError as exc:
    raise ModuleNotFoundError(
        "the Stable-Baselines3 adapter needs the extra: pip install 'openenv-async[sb3]'",
        name=exc.name,
    ) from None
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from openenv_async.client.arguments import checked_count
from openenv_async.client.vector import Answer, ResetRequest
from openenv_async.errors import (
    EnvironmentFailure,
    InvalidAction,
    InvalidObservation,
    OperationUnsupported,
)
from openenv_async.integrations.gymnasium.hosted import infos_by_row
from openenv_async.integrations.gymnasium.vector import GymVectorEnv
from openenv_async.schemas.legal import ACTION_MASK
from openenv_async.targets.resolve import Target, resolve
from openenv_async.types import Mistake

__all__ = [
    "MaskedDictReplayBuffer",
    "MaskedDictRolloutBuffer",
    "MaskedReplayBuffer",
    "MaskedRolloutBuffer",
    "MaskedVecNormalize",
    "OpenEnvVecEnv",
]

log = logging.getLogger("openenv_async.integrations")

_MASKS: Final = "action_masks"
"""The name of the method that MaskablePPO asks for."""
_KNOWS: Final = "leaves_failures_out"
"""The attribute of a class that deals with rows that failed."""
_BUFFERS: Final = {
    "rollout_buffer": "MaskedRolloutBuffer or MaskedDictRolloutBuffer",
    "replay_buffer": "MaskedReplayBuffer or MaskedDictReplayBuffer",
}


_FINAL: Final = ("final_obs", "final_info", "masked", "error")
"""Infos of the step that ended an episode, beside those of the reset that followed it."""

OnMistake = Literal["end", "penalty", "raise"]
"""The consequence of an action that is refused: the episode ends (truncated) with the environment's
own penalty, or none; it goes on, with the penalty as the step's reward; the error is raised."""


class _Rows(GymVectorEnv):
    """A vector environment with infos by environment, as Stable-Baselines3 has them.

    Attributes:
        on_mistake: what follows an action that is refused; ``None``: ``end`` where the environment
            has a penalty for it or tells what is legal, else ``raise``.
        max_mistakes: in a row, by ``penalty``; the last of them ends the episode.
        mistakes: actions that were refused.
        in_a_row: int64 [num_envs], refused since the last action that was taken.
        in_episode: int64 [num_envs], refused since the episode began.
    """

    on_mistake: OnMistake | None = None
    max_mistakes = 1
    mistakes = 0
    in_a_row: NDArray[np.int64]
    in_episode: NDArray[np.int64]

    def _encoded(self, actions: Any, count: int | None = None) -> Any:
        return super()._encoded(actions, count) if self._hosted is None else actions

    def _request(self, actions: Any, who: list[int]) -> None:
        if self._hosted is None:
            super()._request(actions, who)
        else:
            self._hosted.post(actions)

    def _take(self, count: int, timeout: float | None = None) -> tuple[list[int], dict[Any, Any]]:
        if self._hosted is None:
            return super()._take(count, timeout)
        shown, rewards, terminated, truncated, infos = self._hosted.collect()
        if not math.isfinite(self._missing_reward) and np.isnan(rewards[self.valid]).any():
            self._reward(None)
        self._rewards, self._terminations, self._truncations = rewards, terminated, truncated
        self._ended = np.zeros(self.num_envs, np.bool_)
        return self._everyone, self._hold(shown, infos, terminated | truncated)

    def _begin(self, who: list[int], seeds: Any, options: Any) -> dict[Any, Any]:
        if self._hosted is None:
            return super()._begin(who, seeds, options)
        first = seeds[0]
        counted = first is not None and list(seeds) == list(range(first, first + len(seeds)))
        given = None if first is None else first if counted else list(seeds)
        shown, infos = self._hosted.reset(given, options[0])
        return self._hold(shown, infos, np.zeros(self.num_envs, np.bool_))

    def _hold(self, shown: Any, infos: dict[str, Any], ended: Any) -> dict[Any, Any]:
        """Keep what a vector showed; its infos by environment, those of new episodes apart."""
        self._last = shown
        self._rows = _Shown(self.single_observation_space, shown)  # type: ignore[assignment]  # has one()
        found: dict[Any, Any] = {}
        for i, info in enumerate(infos_by_row(infos, self.num_envs)):
            final = {name: info.pop(name) for name in _FINAL if name in info}
            found[i] = [final, info] if ended[i] and final else [info]
        return found

    def _shown(self) -> Any:
        return super()._shown() if self._hosted is None else self._last

    def _drain(self) -> None:
        if self._hosted is None:
            super()._drain()

    def _take_apart(self, answers: list[Answer], infos: dict[Any, Any]) -> None:
        refused = [a for a in answers if isinstance(a.error, InvalidAction) and a.final is None]
        if not refused or self.on_mistake == "raise":
            super()._take_apart(answers, infos)
            return
        super()._take_apart([a for a in answers if a not in refused], infos)
        ended = []
        for answer in refused:
            error = answer.error
            assert isinstance(error, InvalidAction)
            penalty = _penalty(error)
            if self.on_mistake is None and penalty is None and self._legal is None:
                super()._take_apart([answer], infos)  # which raises it
            row = answer.slot
            self.mistakes += 1
            self.in_a_row[row] += 1
            self.in_episode[row] += 1
            ends = self.on_mistake != "penalty" or self.in_a_row[row] >= self.max_mistakes
            if penalty is None:
                penalty = self._missing_reward if math.isfinite(self._missing_reward) else 0.0
            self._rewards[row] = penalty
            self._terminations[row] = False
            self._truncations[row] = ends
            self._ended[row] = False
            self.valid[row] = True
            mistake = Mistake("refused_action", error.message, error.code, _penalty(error))
            about: dict[str, Any] = {"mistake": mistake}
            if ends:
                about["final_obs"] = self._rows.one(row)
                ended.append(row)
            elif self._legal is not None:
                about[ACTION_MASK] = self._legal[row].copy()  # it is as it was
            self._add_info(infos, about, row)
        if ended:
            self._begin_again(ended, infos)

    def _begin_again(self, who: list[int], infos: dict[Any, Any]) -> None:
        """Reset rows whose episodes a mistake ended, in the same step; their rewards stay."""
        rewards = self._rewards[who]
        self.sessions.reset([ResetRequest(row, None, None) for row in who])
        super()._take_apart(self.sessions.take(len(who)), infos)
        self.in_a_row[who] = 0
        for row, reward in zip(who, rewards.tolist(), strict=True):
            if self.valid[row]:
                self._rewards[row] = reward
                self._truncations[row] = True
            else:  # it could not be reset: a failure, and no place to learn from
                infos[row] = infos[row][1:]

    def _add_info(
        self, vector_infos: dict[Any, Any], env_info: dict[str, Any], env_num: int
    ) -> dict[Any, Any]:
        vector_infos.setdefault(env_num, []).append(env_info)
        return vector_infos

    def _reward(self, given: float | None) -> float:
        if given is None and not math.isfinite(self._missing_reward):
            raise OperationUnsupported(
                "a step came without a reward, and an algorithm needs one: say what none means"
                " here, such as missing_reward=0.0"
            )
        return super()._reward(given)


class _Shown:
    """The observations of a vector, row by row."""

    def __init__(self, space: spaces.Space[Any], batch: Any) -> None:
        self._space = space
        self._batch = batch

    def one(self, row: int) -> Any:
        """A copy of one row."""
        return _row(self._batch, row)


def _row(batch: Any, row: int) -> Any:
    if isinstance(batch, dict):
        return {key: _row(part, row) for key, part in batch.items()}
    if isinstance(batch, tuple):
        return tuple(_row(part, row) for part in batch)
    return np.array(batch[row])


class OpenEnvVecEnv(VecEnv):
    """``num_envs`` sessions of one server as a ``VecEnv``: one message each way a step.

    Episodes that end are begun again in the same step, the last observation is in
    ``infos[i]["terminal_observation"]`` and ``infos[i]["TimeLimit.truncated"]`` says how it
    ended. ``infos[i]["episode"]`` has return, length and time, as a ``Monitor`` gives them.

    An algorithm has no place for a step that never was: a failure raises the library's typed
    error, unless ``failures="mask"``. Then the row's reward is not a number, ``infos[i]`` has
    ``masked`` and ``error``, and no ``episode``; train with
    ``rollout_buffer_class=MaskedRolloutBuffer`` or ``replay_buffer_class=MaskedReplayBuffer``,
    which leave such rows out, and normalize with ``MaskedVecNormalize``. Other buffers,
    ``VecNormalize`` and ``VecMonitor`` are refused.

    ``Discrete`` and ``MultiDiscrete`` spaces that do not begin at 0 appear as ones that do.

    Environments that tell what is legal have ``action_masks``, as MaskablePPO asks for them. An
    action that is refused all the same is a mistake: ``infos[i]["mistake"]`` says what was wrong,
    ``infos[i]["episode"]["mistakes"]`` and ``mistakes`` count them.

    Args:
        source: as for ``GymEnv``: a URL, a name, a ``gymnasium.Env`` class, a client, a pool, …
        num_envs: how many sessions; or environments of sessions that are vectors, as for
            ``GymVectorEnv``. Their rows must begin anew in the step that ends them.
        options: as for ``GymVectorEnv``: ``params``, ``token``, ``timeouts``, ``render_mode``,
            ``failures``, ``missing_reward`` and spaces.
        on_mistake: what follows an action that the environment refuses. ``"end"``: the episode is
            truncated, with the environment's own penalty as the reward of the step, or none (0);
            ``"penalty"``: it goes on from where it was, with that reward; ``"raise"``: the error
            is raised. By default ``"end"`` where the environment tells what is legal or has a
            penalty, else ``"raise"``.
        max_mistakes: in a row, by ``"penalty"``; with the last of them the episode ends.
    """

    def __init__(
        self,
        source: Target,
        num_envs: int | None = None,
        *,
        on_mistake: OnMistake | None = None,
        max_mistakes: int = 3,
        **options: Any,
    ) -> None:
        if on_mistake is not None and on_mistake not in get_args(OnMistake):
            raise ValueError(
                f"on_mistake must be one of {', '.join(get_args(OnMistake))}, got {on_mistake!r}"
            )
        max_mistakes = checked_count(max_mistakes, "max_mistakes", 1, ValueError)
        params, token = options.pop("params", None), options.pop("token", None)
        target = resolve(source, params=params, token=token, entry="OpenEnvVecEnv")
        mode = options.get("render_mode")
        self._masks = options.get("failures") == "mask"
        self.vector: _Rows = _Rows(
            target, num_envs, autoreset_mode=AutoresetMode.SAME_STEP, **options
        )
        num_envs = self.vector.num_envs
        self._attributes: list[dict[str, Any]] = [{"render_mode": mode} for _ in range(num_envs)]
        self._returns = np.zeros(num_envs, np.float64)
        self._lengths = np.zeros(num_envs, np.int64)
        self._begun = time.time()
        self._whole = np.ones(num_envs, np.bool_)
        self.vector.on_mistake, self.vector.max_mistakes = on_mistake, max_mistakes
        self.vector.in_a_row = np.zeros(num_envs, np.int64)
        self.vector.in_episode = np.zeros(num_envs, np.int64)
        try:
            seen, self._from_start = _from_zero(self.vector.single_observation_space, -1)
            taken, self._to_start = _from_zero(self.vector.single_action_space, 1)
            super().__init__(num_envs, seen, taken)
            for attributes in self._attributes:
                attributes["metadata"] = self.vector.metadata
        except BaseException:
            self.vector.close()
            raise

    @property
    def num_envs(self) -> int:
        """Return how many environments there are."""
        self._refuse_unknowing()
        return self._num_envs

    @num_envs.setter
    def num_envs(self, value: int) -> None:
        self._num_envs = value

    @property
    def mistakes(self) -> int:
        """Return how many actions were refused so far."""
        return self.vector.mistakes

    def _refuse_unknowing(self) -> None:
        """Refuse code that would compute with the reward of a row that failed.

        Stable-Baselines3 tells an environment nothing of what is built on it. The object that is
        built reads ``num_envs`` and attributes on the way: it is found on the stack.

        Raises:
            OperationUnsupported: something on the stack would.
        """
        if self._masks:
            for reader, local in _readers():
                if isinstance(reader, BaseAlgorithm):
                    self._check_algorithm(reader, local)
                elif isinstance(reader, VecNormalize | VecMonitor) and not _knows(type(reader)):
                    remedy = (
                        "use MaskedVecNormalize"
                        if isinstance(reader, VecNormalize)
                        else "leave it out, this VecEnv reports episodes itself"
                    )
                    raise OperationUnsupported(
                        f"{type(reader).__name__} would count rewards that are not numbers, which"
                        f" failures='mask' gives: {remedy}"
                    )

    def _check_algorithm(self, algorithm: BaseAlgorithm, local: dict[str, Any]) -> None:
        env = algorithm.env if algorithm.env is not None else local.get("env")
        if not isinstance(env, VecEnv) or env.unwrapped is not self:
            return
        for name, wanted in _BUFFERS.items():
            chosen = local.get(f"{name}_class", False)
            made = getattr(algorithm, name, None)
            if (chosen is not False and not _knows(chosen)) or (
                made is not None and not _knows(type(made))
            ):
                if type(algorithm).__name__.startswith("Maskable"):
                    wanted = "MaskedMaskableRolloutBuffer of openenv_async.integrations.sb3_contrib"
                raise OperationUnsupported(
                    f"{type(algorithm).__name__} would learn from rewards that are not numbers,"
                    f" which failures='mask' gives: pass {name}_class={wanted}"
                )

    @classmethod
    def from_url(cls, url: str, num_envs: int, **options: Any) -> Self:
        """Sessions of a server that runs."""
        return cls(url, num_envs, **options)

    @classmethod
    def from_name(cls, name: str, num_envs: int, **options: Any) -> Self:
        """Sessions of an environment's own server, started on this machine."""
        return cls(name, num_envs, **options)

    # -- steps --------------------------------------------------------------------------------

    def reset(self) -> VecEnvObs:
        """Begin an episode in every environment, with the seeds and options that were set."""
        self._refuse_unknowing()
        self.vector._drain()
        infos: dict[Any, Any] = self.vector._begin(
            list(range(self.num_envs)), self._seeds, [options or None for options in self._options]
        )
        self._returns[:] = 0.0
        self._lengths[:] = 0
        self._whole[:] = self.vector.valid
        self.vector.in_a_row[:] = self.vector.in_episode[:] = 0
        for i in range(self.num_envs):
            self.reset_infos[i] = infos.get(i, [{}])[-1]
        self._reset_seeds()
        self._reset_options()
        return self._from_start(self.vector._shown())  # type: ignore[no-any-return]  # arrays

    def step_async(self, actions: np.ndarray[Any, Any]) -> None:
        """Send one action to every environment."""
        shifted = self._to_start(actions)
        self.vector._request(self.vector._encoded(shifted), self.vector._everyone)

    def step_wait(self) -> VecEnvStepReturn:
        """Wait for all of them."""
        vector = self.vector
        found: dict[Any, Any] = vector._take(self._num_envs)[1]
        rewards = vector._rewards
        if not np.isfinite(rewards).all():
            self._deal_with_poison(found)
        dones = vector._terminations | vector._truncations
        self._returns += rewards
        self._lengths += 1
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": False} for _ in dones]
        for i, parts in found.items():
            infos[i] |= parts[0]
        if vector.in_a_row.any():
            vector.in_a_row[["mistake" not in info for info in infos]] = 0
        for i in np.flatnonzero(dones).tolist():
            infos[i] = self._ended(i, found.get(i, [{}]))
        observations: Any = self._from_start(vector._shown())
        return observations, rewards.astype(np.float32), dones, infos

    def _deal_with_poison(self, found: dict[Any, Any]) -> None:
        """Rewards that environments gave and that are not finite, as failures of their rows.

        Raises:
            InvalidObservation: unless failures are masked.
        """
        vector = self.vector
        for i in np.flatnonzero(~np.isfinite(vector._rewards) & vector.valid).tolist():
            error = InvalidObservation(
                f"environment {i} of {self._num_envs} gave the reward {vector._rewards[i]}, which"
                " poisons what learns from it: mend the environment, or leave such episodes out"
                " with failures='mask'"
            )
            if not self._masks:
                raise error
            vector._rewards[i] = math.nan
            vector.valid[i] = False
            about = {"masked": True, "error": error}
            if not (vector._terminations[i] or vector._truncations[i]):
                vector._truncations[i] = vector._ended[i] = True
                about["final_obs"] = vector._rows.one(i)
            parts = found.setdefault(i, [{}])
            parts[0] = parts[0] | about

    def _ended(self, i: int, parts: list[dict[str, Any]]) -> dict[str, Any]:
        """The info of a step that ended an episode; starts the next one's counts."""
        vector, first = self.vector, dict(parts[0])
        last = first.pop("final_obs", None)
        info: dict[str, Any] = first | first.pop("final_info", {})
        info["TimeLimit.truncated"] = bool(vector._truncations[i] and not vector._terminations[i])
        last = vector._rows.one(i) if last is None else last
        info["terminal_observation"] = self._from_start(last)
        self.reset_infos[i] = parts[1] if len(parts) > 1 else {}
        if vector.valid[i] and self._whole[i]:
            info["episode"] = {
                "r": round(float(self._returns[i]), 6),
                "l": int(self._lengths[i]),
                "t": round(time.time() - self._begun, 6),
            }
            if vector.in_episode[i]:
                info["episode"]["mistakes"] = int(vector.in_episode[i])
        vector.in_episode[i] = 0
        self._whole[i] = not vector._ended[i]
        self._returns[i] = 0.0
        self._lengths[i] = 0
        return info

    def close(self) -> None:
        """Close the sessions, and the server if it was started for this."""
        self.vector.close()

    # -- the environments behind --------------------------------------------------------------

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return what ``set_attr`` set, or a field of each environment's state.

        Raises:
            AttributeError: there is neither.
        """
        chosen = list(self._get_indices(indices))
        if attr_name == _MASKS:
            self._expect_masks()
            return [functools.partial(self._mask, i) for i in chosen]
        if all(attr_name in self._attributes[i] for i in chosen):
            return [self._attributes[i][attr_name] for i in chosen]
        vector = self.vector
        states = vector.states() if vector._hosted is None and vector.sessions.opened else []
        try:
            return [states[i][attr_name] for i in chosen]
        except (IndexError, KeyError, TypeError):
            raise AttributeError(
                f"the environments' state has no {attr_name!r}; other attributes stay in the server"
            ) from None

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Remember a value on this side; it does not travel to the environments."""
        for i in self._get_indices(indices):
            self._attributes[i][attr_name] = value

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """``"state"`` or ``"action_masks"`` of each, ``"get_wrapper_attr"`` as ``get_attr``.

        Raises:
            OperationUnsupported: any other method; it stays in the server.
        """
        chosen = list(self._get_indices(indices))
        if method_name == "state" and not method_args and not method_kwargs:
            if self.vector._hosted is not None:
                raise OperationUnsupported(
                    "the environments of a vector have no states of their own: vector.states()"
                    " gives one for each session"
                )
            states = self.vector.states()
            return [states[i] for i in chosen]
        if method_name == _MASKS and not method_args and not method_kwargs:
            masks = self.vector.action_masks()
            return [masks[i] for i in chosen]
        if method_name == "get_wrapper_attr" and len(method_args) == 1:
            return self.get_attr(method_args[0], chosen)
        raise OperationUnsupported(
            f"{method_name}() of an environment cannot be called over the wire: only state() and"
            " action_masks() can"
        )

    def _expect_masks(self) -> None:
        """Return if the environments tell what is legal; begin an episode to see, if need be.

        Raises:
            AttributeError: they do not.
        """
        vector = self.vector
        if (
            vector._hosted is None
            and vector._legal is None
            and vector._translation.masks.width
            and not vector._begun
        ):
            vector._begin(
                list(range(self._num_envs)), [None] * self._num_envs, [None] * self._num_envs
            )
        vector.action_masks  # noqa: B018  # which raises it

    def _mask(self, i: int) -> Any:
        return self.vector.action_masks()[i]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: VecEnvIndices = None) -> list[bool]:
        """True for ``Monitor``: what it reports is reported here."""
        found = issubclass(Monitor, wrapper_class)
        return [found for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray[Any, Any] | None]:
        """A frame of every environment; None without ``render_mode="rgb_array"``."""
        frames = self.vector.render()
        return [None] * self._num_envs if frames is None else list(frames)


def _from_zero(space: spaces.Space[Any], sign: int) -> tuple[Any, Callable[[Any], Any]]:
    """The space that begins at 0, and what shifts elements or batches of them to or from it.

    Args:
        space: any.
        sign: 1 for what goes to ``space``, -1 for what comes from it.
    """
    match space:
        case spaces.Discrete() if space.start != 0:
            start = sign * int(space.start)
            return spaces.Discrete(int(space.n)), lambda values: values + start
        case spaces.MultiDiscrete() if space.start.any():
            starts = sign * space.start
            whole = spaces.MultiDiscrete(space.nvec, dtype=space.dtype.type)
            return whole, lambda values: values + starts
        case spaces.Dict():
            parts = {key: _from_zero(part, sign) for key, part in space.spaces.items()}
            if all(parts[key][0] is space.spaces[key] for key in parts):
                return space, _same
            pairs = [(key, part[0]) for key, part in parts.items()]
            return spaces.Dict(pairs), lambda values: {
                key: shift(values[key]) for key, (_, shift) in parts.items()
            }
        case _:
            return space, _same


def _same(values: Any) -> Any:
    return values


def _penalty(error: InvalidAction) -> float | None:
    """Return what the environment gives for an action that it refused."""
    reward = error.detail.get("reward")
    if isinstance(reward, int | float) and math.isfinite(reward):
        return float(reward)
    return None


def _readers() -> Iterator[tuple[Any, dict[str, Any]]]:
    """Wrappers and algorithms with a call under way, and the local names of that call."""
    frame = sys._getframe(2)
    while frame is not None:
        local = frame.f_locals
        owner = local.get("self")
        if isinstance(owner, VecEnvWrapper | BaseAlgorithm):
            yield owner, local
        frame = frame.f_back  # type: ignore[assignment]  # the last one has none


def _knows(cls: Any) -> bool:
    return bool(getattr(cls, _KNOWS, False))


class MaskedVecNormalize(VecNormalize):
    """A ``VecNormalize`` whose statistics leave out steps whose reward is not a number."""

    leaves_failures_out: Final = True

    def _update_reward(self, reward: np.ndarray[Any, Any]) -> None:
        kept = ~np.isnan(reward)
        self.returns = np.where(kept, self.returns * self.gamma + reward, self.returns)
        if kept.any():
            self.ret_rms.update(self.returns[kept])


class MaskedReplayBuffer(ReplayBuffer):
    """A replay buffer that leaves out steps that failed: those whose reward is not a number.

    The steps of all environments lie in one row, as if one environment had taken them, since
    those of a moment are kept or left out one by one. ``optimize_memory_usage``, which finds the
    next observation in the next step, cannot be had.
    """

    leaves_failures_out: Final = True

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: Any = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,
        handle_timeout_termination: bool = True,
    ) -> None:
        if optimize_memory_usage:
            raise OperationUnsupported(
                f"{type(self).__name__} cannot optimize_memory_usage: the next observation is not"
                " that of the next step where steps are left out"
            )
        super().__init__(
            buffer_size,
            observation_space,
            action_space,
            device,
            handle_timeout_termination=handle_timeout_termination,
        )
        self._last_error: BaseException | None = None

    def add(self, obs: Any, next_obs: Any, action: Any, reward: Any, done: Any, infos: Any) -> None:
        """Keep the steps that were."""
        for i, info in enumerate(infos):
            if np.isnan(reward[i]):
                self._last_error = info.get("error")
                continue
            row = slice(i, i + 1)
            super().add(
                _rows(obs, row), _rows(next_obs, row), action[row], reward[row], done[row], [info]
            )

    def sample(self, batch_size: int, env: Any = None) -> Any:
        """Steps that were.

        Raises:
            EnvironmentFailure: there has not been one.
        """
        if not self.size():
            raise EnvironmentFailure(
                f"every step so far failed, so there is nothing to learn from: {self._last_error}"
            ) from self._last_error
        return super().sample(batch_size, env)


class MaskedDictReplayBuffer(MaskedReplayBuffer, DictReplayBuffer):
    """A ``MaskedReplayBuffer`` for observations that are dicts."""


def _rows(values: Any, row: slice) -> Any:
    return (
        {key: part[row] for key, part in values.items()}
        if isinstance(values, dict)
        else values[row]
    )


class MaskedRolloutBuffer(RolloutBuffer):
    """A rollout buffer that leaves out steps that failed: those whose reward is not a number.

    Such a step counts as the cut-off that it is: the one before it is bootstrapped with the
    value of the state between them, and the step itself is in no minibatch. A rollout of nothing
    but failures gives one minibatch whose advantages are 0 and whose returns are the values, since
    an algorithm must have one: policy and value function stay as they are, but for what
    the optimizer makes of rounding errors.
    """

    leaves_failures_out: Final = True
    masked: np.ndarray[Any, Any]

    def compute_returns_and_advantage(self, last_values: Any, dones: Any) -> None:
        """Compute as the base class does, with failed steps as ends."""
        self.masked = _leave_out(self, lambda: self._compute(last_values, dones))
        if self.masked.all():
            log.warning("every step of a rollout failed: nothing is learnt from it")

    def _compute(self, last_values: Any, dones: Any) -> None:
        super().compute_returns_and_advantage(last_values, dones)

    def get(self, batch_size: int | None = None) -> Generator[Any, None, None]:
        """Minibatches of the steps that were."""
        batches = super().get(batch_size)
        if self.masked.all():
            return _kept(itertools.islice(batches, 1))
        return _kept(batches)

    def _get_samples(self, batch_inds: Any, env: Any = None) -> Any:
        if not self.masked.all():
            batch_inds = batch_inds[~self.masked[batch_inds]]
        return super()._get_samples(batch_inds, env)


class MaskedDictRolloutBuffer(MaskedRolloutBuffer, DictRolloutBuffer):
    """A ``MaskedRolloutBuffer`` for observations that are dicts."""


def _leave_out(buffer: RolloutBuffer, compute: Any) -> np.ndarray[Any, Any]:
    """Compute returns with failed steps as ends; which of the flattened steps they are.

    With the value as its reward the temporal difference of a last step is zero: nothing of it
    reaches the step before.
    """
    masked = np.isnan(buffer.rewards)
    buffer.rewards[masked] = buffer.values[masked]
    compute()
    buffer.rewards[masked] = math.nan
    flat: np.ndarray[Any, Any] = buffer.swap_and_flatten(masked).reshape(-1)
    return flat


def _kept(batches: Iterable[Any]) -> Generator[Any, None, None]:
    for batch in batches:
        if len(batch.actions):
            yield batch
