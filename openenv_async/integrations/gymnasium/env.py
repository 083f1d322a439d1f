"""GymEnv: one served environment as a ``gymnasium.Env``."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import Any, Final, SupportsFloat

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from openenv_async.client.arguments import checked_seed, reset_arguments
from openenv_async.client.env import GenericEnvClient
from openenv_async.client.sync import SyncEnvClient
from openenv_async.errors import EpisodeEnded, EpisodeNotStarted, OperationUnsupported
from openenv_async.integrations.gymnasium.settings import (
    Translation,
    frame_of,
    render_metadata,
    render_options,
)
from openenv_async.schemas.legal import ACTION_MASK
from openenv_async.targets.resolve import Target, resolve
from openenv_async.targets.sessions import BlockingSessions
from openenv_async.types import EpisodeInfo, StepResult, Timeouts

__all__ = ["GymEnv", "OpenEnvGymWrapper"]


class GymEnv(gymnasium.Env[Any, Any]):
    """One session of any served environment, as Gymnasium's API.

    A failure is raised as the library's typed error, never turned into a step: after it,
    ``reset`` begins an episode in a new session. Copies (pickle, fork) open their own session.

    Args:
        source: any target: a URL; the name of an environment or an id of Gymnasium's registry (a
            server is started for it and ends with ``close``); a ``gymnasium.Env`` or
            ``Environment`` class, factory or instance (it is served in this process); a client
            whose settings are taken; a pool; …
        params: constructor arguments, for a name or a class.
        token: access token, for a URL.
        timeouts: deadlines of the calls.
        render_mode: what ``render`` gives, such as ``"rgb_array"``, of an environment that
            renders: one of ``metadata["render_modes"]``.
        missing_reward: the reward of a step for which the environment gave none. By default
            not a number, so that no trainer takes it for one; give 0.0 if that is what no
            reward means here.
        action_field, observation_field: where an action or observation has several fields, the
            one that counts; without it they are a Dict space.
        action_space, encode_action: instead of what the schema says: a space, and what turns
            its elements into actions.
        observation_space, decode_observation: a space, and what turns observations into its
            elements.

    Raises:
        OperationUnsupported: the schema has no space for a part, and none was given; or the
            environment has no such render mode.
        ConnectFailed, ServerError: there is no server.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012  # as in the base class

    def __init__(
        self,
        source: Target,
        *,
        params: Mapping[str, Any] | None = None,
        token: str | None = None,
        timeouts: Timeouts | None = None,
        render_mode: str | None = None,
        missing_reward: float = math.nan,
        action_field: str | None = None,
        observation_field: str | None = None,
        action_space: spaces.Space[Any] | None = None,
        encode_action: Callable[[Any], Any] | None = None,
        observation_space: spaces.Space[Any] | None = None,
        decode_observation: Callable[[Any], Any] | None = None,
    ) -> None:
        target = resolve(source, params=params, token=token, entry="GymEnv")
        self._served = BlockingSessions(
            target,
            client=GenericEnvClient,
            timeouts=timeouts,
            options=render_options(render_mode),
        )
        try:
            schema = self._served.schema()
            self.metadata = render_metadata(schema, render_mode)
            self._translation = Translation(
                schema,
                action_field=action_field,
                observation_field=observation_field,
                action_space=action_space,
                encode_action=encode_action,
                observation_space=observation_space,
                decode_observation=decode_observation,
            )
        except BaseException:
            self._served.close()
            raise
        self.action_space = self._translation.action.space
        self.observation_space = self._translation.observation.space
        self.render_mode = render_mode
        self._missing_reward = missing_reward
        self._client: SyncEnvClient[Any, Any, Any] = SyncEnvClient.wrap(self._served.session())
        self._seeded_session: str | None = None
        self._seeds: random.Random | None = None
        self._label = target.label
        self._tells: bool | None = self._translation.tells_legal or None
        self._mask: NDArray[np.int8] | None = None
        self._playing: bool | None = None

    @property
    def client(self) -> SyncEnvClient[Any, Any, Any]:
        """The blocking client behind, for what Gymnasium has no call for, such as ``state``."""
        return self._client

    @property
    def episode(self) -> EpisodeInfo | None:
        """Id, seed and steps of the episode."""
        return self._client.episode

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode.

        Without a seed after one with a seed the environment goes on drawing from its generator
        where it can; else a seed is drawn from the one before, so that a seeded run stays one.
        """
        seed = checked_seed(seed)
        super().reset(seed=seed)
        resume = False
        if seed is not None:
            self._seeds = random.Random(seed)
        elif self._seeds is not None:
            # A new session has a new generator, which must be seeded first.
            resume = self._translation.resume_options is not None and (
                self._seeded_session is not None and self._seeded_session == self._client.session_id
            )
            seed = None if resume else self._seeds.getrandbits(31)
        given = self._translation.reset_options(options, resume=resume)
        result = self._client.reset(**reset_arguments(given, seed=seed))
        if resume and self._client.session_id != self._seeded_session:
            # The session was lost, and the generator with it.
            assert self._seeds is not None
            seed = self._seeds.getrandbits(31)
            given = self._translation.reset_options(options, resume=False)
            result = self._client.reset(**reset_arguments(given, seed=seed))
        if seed is not None:
            self._seeded_session = self._client.session_id
        return self._translation.observation.from_wire(result.observation), self._info(result)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Take one action."""
        result = self._client.step(self._translation.action.to_wire(action))
        return (
            self._translation.observation.from_wire(result.observation),
            self._missing_reward if result.reward is None else result.reward,
            result.terminated,
            result.truncated,
            self._info(result),
        )

    def _info(self, result: StepResult[Any]) -> dict[str, Any]:
        """Return a result's info, with the mask of what is legal where that is told.

        Raises:
            InvalidObservation: the mask does not fit the action space.
        """
        info, self._mask = result.info, None
        self._playing = not (result.terminated or result.truncated)
        if self._playing and info:
            self._mask = self._translation.masks.of(info, self._label)
        if self._mask is not None:
            self._tells = True
            return {**info, ACTION_MASK: self._mask}
        self._tells = bool(self._tells)
        return info

    @property
    def action_masks(self) -> Callable[[], NDArray[np.int8]]:
        """The function that gives the mask of what is legal now: ``env.action_masks()``.

        int8 [actions], 1 for what is legal, also in ``info["action_mask"]``: an entry for each
        value of a ``Discrete`` space; those of each component of a ``MultiDiscrete`` one after the
        other; two a bit of a ``MultiBinary``. MaskablePPO asks for it.

        Raises:
            AttributeError: the environment does not tell what is legal, or the action space has
                no masks.
        """
        if not self._translation.masks.width or self._tells is False:
            raise AttributeError(
                f"{self._label} has no action masks: it does not tell what is legal, or its"
                f" {self.action_space} has none"
            )
        return self._masks

    def _masks(self) -> NDArray[np.int8]:
        if self._playing is None:
            raise EpisodeNotStarted("action_masks() before reset(): call reset() first")
        if not self._playing:
            raise EpisodeEnded("action_masks() after the episode ended: call reset() first")
        if self._mask is None:  # nothing was said this time
            return np.ones(self._translation.masks.width, np.int8)
        return self._mask.copy()

    def render(self) -> Any:
        """The environment's own picture of its state: a frame, in the mode that was asked for.

        The frame is fetched with the state of the session, when it is asked for and not before.

        Raises:
            OperationUnsupported: this was made without a render mode.
        """
        if self.render_mode is None:
            raise OperationUnsupported(
                "render() needs a render mode: make this with render_mode='rgb_array'"
            )
        return frame_of(self._client.state())

    def close(self) -> None:
        """Close the session, and the server if it was started for this; idempotent."""
        try:
            self._client.close()
        finally:
            self._served.close()


OpenEnvGymWrapper: Final = GymEnv
"""The name under which this class is sketched in upstream's documentation."""
