"""Masks of legal actions by the infos of an environment, for its action space.

Rules:

- A mask is a row of int8, 1 for what is legal: an entry for each value of a ``Discrete`` from its
  start; for a ``MultiDiscrete`` those of each component, one after the other; for a
  ``MultiBinary`` two a bit. Other spaces have none.
- A list of actions becomes their mask. That of rows of integers allows each value that occurs in
  one of them: a combination of two may still be refused.
- A mask that does not fit the space is the environment's failure, and names it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from openenv_async.errors import InvalidObservation, OpenEnvError
from openenv_async.integrations.gymnasium.spaces import SpaceCodec
from openenv_async.schemas.legal import ACTION_MASK, LEGAL_ACTIONS, Choices, checked_mask

__all__ = ["ActionMasks"]

_MOST_KNOWN: Final = 65_536
"""Actions whose entries are kept, and entries of a Discrete space that are looked up."""


class ActionMasks:
    """Masks of one action space.

    Args:
        codec: the space, and its elements on the wire.
        own: the space is the caller's: what travels cannot be read as its elements.
        declared: the environment says in its schema that it tells what is legal; else a list of
            something that is not in the space is taken for something of its own.

    Attributes:
        width: entries of a mask; 0 where the space has none.
    """

    def __init__(self, codec: SpaceCodec, own: bool = False, declared: bool = True) -> None:
        self._codec = codec
        self._declared = declared
        self._own = own
        self._parts = [range(n) for n in _sizes(codec.space)]
        self._starts = np.cumsum([0, *(len(part) for part in self._parts)])
        self.width = int(self._starts[-1])
        self._known: dict[Any, Any] = {}
        self._sent: dict[Any, int] | None = None

    def of(self, info: Mapping[str, Any] | None, whose: str) -> NDArray[np.int8] | None:
        """Return the mask by an info; ``None`` where it says nothing, or the space has none.

        Args:
            info: of the observation before the action.
            whose: names the environment in errors.

        Raises:
            InvalidObservation: it does not fit the space, or nothing is legal by it.
        """
        if not info or not self.width:
            return None
        mask = info.get(ACTION_MASK)
        if mask is not None:
            return self._checked(mask, whose)
        listed = info.get(LEGAL_ACTIONS)
        if not isinstance(listed, list | tuple):
            return None  # a word of the environment's own
        return self._of_list(listed, whose)

    def _checked(self, mask: Any, whose: str) -> NDArray[np.int8]:
        if (
            isinstance(mask, np.ndarray)
            and mask.shape == (self.width,)
            and mask.dtype in (np.int8, np.bool_)
            and len(self._parts) == 1
        ):
            # NumPy's reductions of a few entries cost a microsecond each.
            octets = mask.tobytes()
            if b"\x01" in octets and not octets.strip(b"\x00\x01"):
                return mask.astype(np.int8)
        return np.array(checked_mask(mask, Choices(self._parts), whose), np.int8)

    def _of_list(self, listed: Sequence[Any], whose: str) -> NDArray[np.int8] | None:
        if not listed:
            if not self._declared:
                return None
            raise InvalidObservation(
                f"{whose} gave an empty list of legal actions: end the episode where there is"
                " nothing to do"
            )
        made = np.zeros(self.width, np.int8)
        known = self._known
        for action in listed:
            key = tuple(action.items()) if type(action) is dict else action
            try:
                entries = known[key]
            except (KeyError, TypeError):
                entries = self._entries(action, whose)
                if entries is None:
                    return None
                if len(known) >= _MOST_KNOWN:
                    known.clear()
                with contextlib.suppress(TypeError):  # a list, an array: it is read again
                    known[key] = entries
            made[entries] = 1
        return made

    def _entries(self, action: Any, whose: str) -> Any:
        """Return the places of an action in the mask; ``None`` where they cannot be known."""
        if self._own:
            return self._found(action)
        space = self._codec.space
        try:
            element = self._codec.from_wire(action)
        except OpenEnvError as exc:
            if not self._declared:
                return None
            raise self._misfit(action, whose) from exc
        if not space.contains(element):
            if not self._declared:
                return None
            raise self._misfit(action, whose)
        offsets = np.ravel(element).astype(np.int64)
        if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
            offsets = offsets - np.ravel(space.start)
        return self._starts[:-1] + offsets

    def _misfit(self, action: Any, whose: str) -> InvalidObservation:
        return InvalidObservation(
            f"{whose} gave the legal action {action!r:.80}, which is not in {self._codec.space}"
        )

    def _found(self, action: Any) -> Any:
        """Return the entry of an action that one element of the caller's space is sent as."""
        space = self._codec.space
        if not isinstance(space, spaces.Discrete) or space.n > _MOST_KNOWN:
            return None
        if self._sent is None:
            first = int(space.start)
            self._sent = {
                repr(self._codec.to_wire(np.int64(first + i))): i for i in range(int(space.n))
            }
        return self._sent.get(repr(action))


def _sizes(space: spaces.Space[Any]) -> list[int]:
    match space:
        case spaces.Discrete() if space.n <= _MOST_KNOWN:
            return [int(space.n)]
        case spaces.MultiDiscrete():
            return [int(n) for n in np.ravel(space.nvec)]
        case spaces.MultiBinary():
            return [2] * int(np.prod(space.shape))
    return []
