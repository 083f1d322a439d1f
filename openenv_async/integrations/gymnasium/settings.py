"""Common parts of ``GymEnv`` and ``GymVectorEnv``: spaces, and the arguments of resets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
from gymnasium import spaces

from openenv_async.environment import RENDER_KEY
from openenv_async.errors import InvalidOption, OperationUnsupported, shown
from openenv_async.hosts.spaces import opener
from openenv_async.integrations.gymnasium.masks import ActionMasks
from openenv_async.integrations.gymnasium.spaces import SpaceCodec, codec_of
from openenv_async.schemas.legal import tells_legal

__all__ = ["Translation", "frame_of", "render_metadata", "render_options"]

_NUMBERS: Final = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
_WINDOW: Final = "human"


class Translation:
    """The conversion between Gymnasium's values and an environment's.

    Args:
        schema: the server's schemas.
        action_field, observation_field: of an action or observation of several fields, the one
            that counts.
        action_space, encode_action: an action space, and its elements as actions.
        observation_space, decode_observation: an observation space, and observations as its
            elements.

    Attributes:
        decodes_itself: whether the caller gave the observation space.
        masks: of the action space.
        tells_legal: whether the environment's schema says that it tells what is legal.
        resume_options: of a reset that goes on with the environment's generator; ``None`` where
            there are none.

    Raises:
        OperationUnsupported: the schema has no space for a part, and none was given.
    """

    def __init__(
        self,
        schema: Mapping[str, Any],
        *,
        action_field: str | None = None,
        observation_field: str | None = None,
        action_space: spaces.Space[Any] | None = None,
        encode_action: Callable[[Any], Any] | None = None,
        observation_space: spaces.Space[Any] | None = None,
        decode_observation: Callable[[Any], Any] | None = None,
    ) -> None:
        self._settings = {
            "schema": schema,
            "action_field": action_field,
            "observation_field": observation_field,
            "action_space": action_space,
            "encode_action": encode_action,
            "observation_space": observation_space,
            "decode_observation": decode_observation,
        }
        self.action = _given(action_space, encode_action, None) or codec_of(
            schema["action"], optional=True, field=action_field
        )
        self.observation = _given(observation_space, None, decode_observation) or codec_of(
            schema["observation"], field=observation_field
        )
        self.decodes_itself = observation_space is not None
        declared = tells_legal(schema["action"])
        self.masks = ActionMasks(self.action, own=action_space is not None, declared=declared)
        self.tells_legal = bool(self.masks.width) and declared
        options = schema.get("reset", {}).get("properties", {})
        self._wraps_options = "options" in options
        self.resume_options = {"keep_rng": True} if "keep_rng" in options else None

    def __getstate__(self) -> dict[str, Any]:
        return self._settings

    def __setstate__(self, settings: dict[str, Any]) -> None:
        self.__init__(**settings)  # type: ignore[misc]  # the codecs are closures: made again

    def checked_options(self, options: Any) -> dict[str, Any] | None:
        """Gymnasium's options of a reset.

        Raises:
            InvalidOption: they are not a map by name.
        """
        if options is None:
            return None
        if isinstance(options, Mapping) and all(isinstance(name, str) for name in options):
            return dict(options)
        raise InvalidOption(
            f"reset(options=…) must be a dict from names to values or None, got {shown(options)}"
        )

    def reset_options(self, options: Mapping[str, Any] | None, *, resume: bool) -> dict[str, Any]:
        """The reset's own options.

        Args:
            options: Gymnasium's; an environment whose ``reset`` has no ``options`` gets them as
                separate ones.
            resume: go on with the generator that an earlier reset seeded, where it can.
        """
        made: dict[str, Any] = {}
        options = self.checked_options(options)
        if options is not None:
            made = {"options": dict(options)} if self._wraps_options else dict(options)
        if resume and self.resume_options is not None:
            made |= self.resume_options
        return made


def render_options(render_mode: str | None) -> dict[str, Any]:
    """The session options of a session that renders.

    Raises:
        OperationUnsupported: the mode is that of a window, which a server has not.
    """
    if render_mode is None:
        return {}
    if render_mode == _WINDOW:
        raise OperationUnsupported(
            "render_mode='human' needs a window, which a server has not: use 'rgb_array' and show"
            " the frames here"
        )
    return {"render_mode": render_mode}


def render_metadata(schema: Mapping[str, Any], render_mode: str | None) -> dict[str, Any]:
    """Gymnasium's metadata of how the environment renders.

    Raises:
        OperationUnsupported: it does not render in this mode.
    """
    about = schema.get("state", {}).get(RENDER_KEY, {})
    modes = [mode for mode in about.get("modes", ()) if mode != _WINDOW]
    if render_mode is not None and render_mode not in modes:
        known = ", ".join(modes) or "none"
        raise OperationUnsupported(
            f"the environment has no render mode {render_mode!r} (it has: {known}): its class"
            " names them in metadata['render_modes']"
        )
    metadata: dict[str, Any] = {"render_modes": modes}
    if about.get("fps") is not None:
        metadata["render_fps"] = about["fps"]
    return metadata


def frame_of(state: Any) -> Any:
    """The frame of a session's state, as memory of the caller's own."""
    frame = state["frame"]
    return np.array(frame) if isinstance(frame, np.ndarray) else frame


def _given(
    space: spaces.Space[Any] | None,
    to_wire: Callable[[Any], Any] | None,
    from_wire: Callable[[Any], Any] | None,
) -> SpaceCodec | None:
    if space is None:
        if to_wire is not None or from_wire is not None:
            raise OperationUnsupported(
                "encode_action= needs action_space=, and decode_observation= observation_space="
            )
        return None
    decode = from_wire or _same
    if not isinstance(space, _NUMBERS):
        return SpaceCodec(space, to_wire or _same, decode)
    fit = opener(space)  # what is decoded goes into an array, which would bend it
    return SpaceCodec(space, to_wire or _same, lambda value: fit(decode(value)))


def _same(value: Any) -> Any:
    return value
