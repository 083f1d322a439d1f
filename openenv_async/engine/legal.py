"""Results of environments that say what is legal, with it in their info.

Only the sessions of an environment that defines ``legal_actions()`` have these readers: the steps
of others do not know of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from openenv_async.errors import InvalidObservation
from openenv_async.models.results import Extracted, ResultReader, is_awaitable
from openenv_async.schemas.legal import ACTION_MASK, LEGAL_ACTIONS

__all__ = ["LegalActionsFailed", "LegalReader", "Listed"]

_MOST_TYPES: Final = 256
"""Result types whose readers are kept; code that makes types as it goes has more."""


class LegalActionsFailed(Exception):
    """The ``legal_actions()`` of an environment raised its cause, or gave what is none."""


class Listed(list[Any]):
    """Actions that ``legal_actions()`` gave, not a list of an info's own."""


class LegalReader:
    """Readers of what one environment returns, which add what is legal then.

    Args:
        read: readers of the results themselves.
        ask: the environment's ``legal_actions``.
        name: of the environment, for errors.

    Attributes:
        known: the readers made so far, by the type of the result.
    """

    def __init__(self, read: ResultReader, ask: Callable[[], Any], name: str) -> None:
        self.known: dict[type, Callable[[Any], Extracted]] = {}
        self._read = read
        self._ask = ask
        self._name = name

    def __getitem__(self, kind: type) -> Callable[[Any], Extracted]:
        own, add = self._read, self._add

        def read(result: Any) -> Extracted:
            extracted = own[kind](result)
            return extracted if extracted[2] or extracted[3] else add(extracted)

        if len(self.known) >= _MOST_TYPES:
            self.known.clear()
        self.known[kind] = read
        return read

    def _add(self, extracted: Extracted) -> Extracted:
        """Add what is legal, unless the environment's own info says it."""
        observation, reward, terminated, truncated, info = extracted
        if info is not None and (LEGAL_ACTIONS in info or ACTION_MASK in info):
            return extracted
        try:
            found = self._ask()
            told = None if found is None else self._told(found)
        except BaseException as exc:
            raise LegalActionsFailed from exc
        if told is None:
            return extracted
        return (
            observation,
            reward,
            terminated,
            truncated,
            told if info is None else {**info, **told},
        )

    def _told(self, found: Any) -> dict[str, Any]:
        """Return the entry of the info: a mask as int8, anything else as a list.

        Raises:
            InvalidObservation: it is neither, or nothing is legal by it.
        """
        dtype: Any = getattr(found, "dtype", None)
        if hasattr(dtype, "kind"):
            if dtype.kind == "b" or (dtype.kind in "iu" and dtype.itemsize == 1):
                if found.ndim != 1:
                    raise self._wrong(f"a mask of the shape {found.shape}: give one row")
                if not found.tobytes().strip(b"\x00"):  # a microsecond faster than any()
                    raise self._nothing()
                return {ACTION_MASK: found.astype("int8")}
            if dtype.kind not in "iu" or found.ndim != 1:
                raise self._wrong(
                    f"an array of {dtype} and the shape {found.shape}: a mask is a row of bool or"
                    " int8"
                )
            found = found.tolist()
        elif is_awaitable(found):
            if hasattr(found, "close"):
                found.close()
            raise self._wrong("an awaitable: make it a plain function")
        elif not isinstance(found, Iterable) or isinstance(found, str | bytes | Mapping):
            raise self._wrong(f"a {type(found).__name__}: give a list of actions, or a mask")
        listed = Listed(found)
        if not listed:
            raise self._nothing()
        return {LEGAL_ACTIONS: listed}

    def _wrong(self, what: str) -> InvalidObservation:
        return InvalidObservation(f"legal_actions() of {self._name} gave {what}")

    def _nothing(self) -> InvalidObservation:
        return self._wrong(
            "no action though the episode goes on: end it where there is nothing to do, or return"
            " None where anything is legal"
        )
