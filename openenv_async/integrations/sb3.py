"""Environments as a Stable-Baselines3 ``VecEnv``, and a rollout buffer that leaves failures out.

Needs the extra ``sb3``.
"""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Sequence
from typing import Any, Self

try:
    from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
    from stable_baselines3.common.monitor import Monitor
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
from gymnasium.vector import AutoresetMode

from openenv_async.errors import OperationUnsupported
from openenv_async.integrations.gymnasium.vector import GymVectorEnv
from openenv_async.integrations.source import Source

__all__ = ["MaskedDictRolloutBuffer", "MaskedRolloutBuffer", "OpenEnvVecEnv"]


class _Rows(GymVectorEnv):
    """With infos by environment, as Stable-Baselines3 has them: a list of dicts for each."""

    def _add_info(
        self, vector_infos: dict[Any, Any], env_info: dict[str, Any], env_num: int
    ) -> dict[Any, Any]:
        vector_infos.setdefault(env_num, []).append(env_info)
        return vector_infos


class OpenEnvVecEnv(VecEnv):
    """``num_envs`` sessions of one server as a ``VecEnv``: one message each way a step.

    Episodes that end are begun again in the same step, the last observation is in
    ``infos[i]["terminal_observation"]`` and ``infos[i]["TimeLimit.truncated"]`` says how it
    ended. ``infos[i]["episode"]`` has return, length and time, as a ``Monitor`` gives them.

    An algorithm has no place for a step that never was: a failure raises the library's typed
    error, unless ``failures="mask"``. Then the row's reward is not a number, ``infos[i]`` has
    ``masked`` and ``error``, and no ``episode``; train with
    ``rollout_buffer_class=MaskedRolloutBuffer``, which leaves such rows out.

    Args:
        source: a URL, the name of an environment (a server is started for it and ends with
            ``close``), or a client whose settings are taken.
        num_envs: how many sessions.
        options: as for ``GymVectorEnv``: ``params``, ``token``, ``timeouts``, ``failures``,
            ``missing_reward`` and spaces.
    """

    def __init__(self, source: Source, num_envs: int, **options: Any) -> None:
        self._attributes: list[dict[str, Any]] = [{"render_mode": None} for _ in range(num_envs)]
        self._returns = np.zeros(num_envs, np.float64)
        self._lengths = np.zeros(num_envs, np.int64)
        self._begun = time.time()
        self._whole = np.ones(num_envs, np.bool_)
        self.vector: GymVectorEnv = _Rows(
            source, num_envs, autoreset_mode=AutoresetMode.SAME_STEP, **options
        )
        try:
            super().__init__(
                num_envs, self.vector.single_observation_space, self.vector.single_action_space
            )
        except BaseException:
            self.vector.close()
            raise

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
        self.vector._drain()
        infos: dict[Any, Any] = self.vector._begin(
            list(range(self.num_envs)), self._seeds, [options or None for options in self._options]
        )
        self._returns[:] = 0.0
        self._lengths[:] = 0
        self._whole[:] = self.vector.valid
        for i in range(self.num_envs):
            self.reset_infos[i] = infos.get(i, [{}])[-1]
        self._reset_seeds()
        self._reset_options()
        return self.vector._shown()  # type: ignore[no-any-return]  # arrays, as the space says

    def step_async(self, actions: np.ndarray[Any, Any]) -> None:
        """Send one action to every environment."""
        self.vector._request(self.vector._encoded(actions), self.vector._everyone)

    def step_wait(self) -> VecEnvStepReturn:
        """Wait for all of them."""
        vector = self.vector
        found: dict[Any, Any] = vector._take(self.num_envs)[1]
        rewards = vector._rewards
        dones = vector._terminations | vector._truncations
        self._returns += rewards
        self._lengths += 1
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": False} for _ in dones]
        for i, parts in found.items():
            infos[i] |= parts[0]
        for i in np.flatnonzero(dones).tolist():
            infos[i] = self._ended(i, found.get(i, [{}]))
        observations: Any = vector._shown()
        return observations, rewards.astype(np.float32), dones, infos

    def _ended(self, i: int, parts: list[dict[str, Any]]) -> dict[str, Any]:
        """The info of a step that ended an episode; starts the next one's counts."""
        vector, first = self.vector, dict(parts[0])
        last = first.pop("final_obs", None)
        info: dict[str, Any] = first | first.pop("final_info", {})
        info["TimeLimit.truncated"] = bool(vector._truncations[i] and not vector._terminations[i])
        info["terminal_observation"] = vector._rows.one(i) if last is None else last
        self.reset_infos[i] = parts[1] if len(parts) > 1 else {}
        if vector.valid[i] and self._whole[i]:
            info["episode"] = {
                "r": round(float(self._returns[i]), 6),
                "l": int(self._lengths[i]),
                "t": round(time.time() - self._begun, 6),
            }
        self._whole[i] = not vector._ended[i]
        self._returns[i] = 0.0
        self._lengths[i] = 0
        return info

    def close(self) -> None:
        """Close the sessions, and the server if it was started for this."""
        self.vector.close()

    # -- the environments behind --------------------------------------------------------------

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """What ``set_attr`` set, or a field of each environment's state.

        Raises:
            AttributeError: there is neither.
        """
        chosen = list(self._get_indices(indices))
        if all(attr_name in self._attributes[i] for i in chosen):
            return [self._attributes[i][attr_name] for i in chosen]
        states = self.vector.states() if self.vector.sessions.opened else []
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
        """``"state"`` of each environment, ``"get_wrapper_attr"`` as ``get_attr``.

        Raises:
            OperationUnsupported: any other method; it stays in the server.
        """
        chosen = list(self._get_indices(indices))
        if method_name == "state" and not method_args and not method_kwargs:
            states = self.vector.states()
            return [states[i] for i in chosen]
        if method_name == "get_wrapper_attr" and len(method_args) == 1:
            return self.get_attr(method_args[0], chosen)
        raise OperationUnsupported(
            f"{method_name}() of an environment cannot be called over the wire: only state() can"
        )

    def env_is_wrapped(self, wrapper_class: type[Any], indices: VecEnvIndices = None) -> list[bool]:
        """True for ``Monitor``: what it reports is reported here."""
        found = issubclass(Monitor, wrapper_class)
        return [found for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[np.ndarray[Any, Any] | None]:
        """None: a served environment that draws shows it in its observations."""
        return [None] * self.num_envs


class MaskedRolloutBuffer(RolloutBuffer):
    """A rollout buffer that leaves out steps that failed: those whose reward is not a number.

    Such a step counts as the cut-off that it is: the one before it is bootstrapped with the
    value of the state between them, and the step itself is in no minibatch.
    """

    masked: np.ndarray[Any, Any]

    def compute_returns_and_advantage(self, last_values: Any, dones: Any) -> None:
        """As the base class, with failed steps as ends."""
        self.masked = _leave_out(self, lambda: self._compute(last_values, dones))

    def _compute(self, last_values: Any, dones: Any) -> None:
        super().compute_returns_and_advantage(last_values, dones)

    def get(self, batch_size: int | None = None) -> Generator[Any, None, None]:
        """Minibatches of the steps that were."""
        return _kept(super().get(batch_size))

    def _get_samples(self, batch_inds: Any, env: Any = None) -> Any:
        return super()._get_samples(batch_inds[~self.masked[batch_inds]], env)


class MaskedDictRolloutBuffer(MaskedRolloutBuffer, DictRolloutBuffer):
    """As ``MaskedRolloutBuffer``, for observations that are dicts."""


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


def _kept(batches: Generator[Any, None, None]) -> Generator[Any, None, None]:
    for batch in batches:
        if len(batch.actions):
            yield batch
