"""Legal actions, as an info tells them: which of the actions a schema describes may be taken now.

Rules:

- ``info["legal_actions"]`` is a list of actions; ``info["action_mask"]`` has one number for each
  action, 1 where it is legal. An info may have either, or none, which says nothing.
- The entries of a mask are in the order of the schema's values: an integer from its minimum, an
  enum as it is written, ``False`` before ``True``. A row of integers has the mask of each, one
  after the other; a row of bits two entries a bit (or one: 0 or 1 for the bit that it must be,
  2 for any). An action of one field has the mask of that field.
- A mask that does not fit is an error, never bent.
- An environment whose schema does not say that it tells what is legal may mean something of its own
  by a list of that name: it counts only if its entries are actions, or values of the only field.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from openenv_async.errors import InvalidObservation, OpenEnvError
from openenv_async.schemas.refs import resolved
from openenv_async.schemas.sample import sample

__all__ = [
    "ACTION_MASK",
    "ADVISED",
    "LEGAL_ACTIONS",
    "LEGAL_KEY",
    "Choices",
    "checked_mask",
    "choices_of",
    "flat_mask",
    "legal_actions",
    "sample_legal",
    "tells_legal",
]

LEGAL_KEY: Final = "x-legal-actions"
"""The key of an action's schema that says that its environment tells what is legal."""
ADVISED: Final = "advised"
"""Its value where the environment does not promise to refuse the others; else it is true."""
LEGAL_ACTIONS: Final = "legal_actions"
ACTION_MASK: Final = "action_mask"
_MOST_ENTRIES: Final = 1 << 20
"""Values of a component that a mask is made for."""
_MOST_COMBINATIONS: Final = 4096
"""Actions of a row of integers that are listed one by one."""


@dataclass(frozen=True, slots=True)
class Choices:
    """The finitely many actions of a schema, as a mask counts them.

    Attributes:
        parts: the values of each component; one component unless the action is a row.
        field: the name of the only field, where the action is an object.
        dtype: of the array that the action is; ``None`` where it is a single value.
    """

    parts: Sequence[Sequence[Any]]
    field: str | None = None
    dtype: str | None = None

    @property
    def width(self) -> int:
        """Entries of a mask."""
        return sum(len(part) for part in self.parts)

    def action(self, values: Sequence[Any]) -> Any:
        """Return the action of one value for each component."""
        made: Any = values[0]
        if self.dtype is not None:
            import numpy as np

            made = np.array(values, self.dtype)
        return made if self.field is None else {self.field: made}

    def mask_of(self, actions: Sequence[Any]) -> list[int] | None:
        """Return the mask of a list of actions; ``None`` where one is not among the choices.

        Of a row of integers an entry is 1 if it occurs in any of the actions.
        """
        mask = [0] * self.width
        for action in actions:
            if self.field is not None:
                if not isinstance(action, Mapping) or self.field not in action:
                    return None
                action = action[self.field]
            values = [action] if self.dtype is None else list(action)
            if len(values) != len(self.parts):
                return None
            place = 0
            for part, value in zip(self.parts, values, strict=True):
                try:
                    mask[place + part.index(value)] = 1
                except (ValueError, TypeError):
                    return None
                place += len(part)
        return mask

    def understood(self, listed: Sequence[Any]) -> Sequence[Any] | None:
        """Return a list as actions, where it is one of actions or of values of the only field."""
        if not listed or self.mask_of(listed) is not None:
            return listed or None
        if self.field is None:
            return None
        actions = [{self.field: value} for value in listed]
        return None if self.mask_of(actions) is None else actions


def choices_of(schema: Mapping[str, Any]) -> Choices | None:
    """Return the choices that a mask is about; ``None`` where the actions are too many or open."""
    return _choices(schema, schema, None)


def _choices(schema: Any, root: Mapping[str, Any], field: str | None) -> Choices | None:
    found = resolved(schema, root)
    if not isinstance(found, Mapping):
        return None
    if "enum" in found:
        return Choices([list(found["enum"])], field)
    if "const" in found:
        return Choices([[found["const"]]], field)
    if "x-ndarray" in found:
        return _row(found["x-ndarray"], field)
    match found.get("type"):
        case "boolean":
            return Choices([[False, True]], field)
        case "integer" if "minimum" in found and "maximum" in found:
            values = range(found["minimum"], found["maximum"] + 1)
            return None if values[_MOST_ENTRIES:] else Choices([values], field)
        case "object" if field is None:
            properties = found.get("properties", {})
            needed = [name for name in properties if name in found.get("required", ())]
            names = needed if len(properties) > 1 else list(properties)
            if len(names) == 1:
                return _choices(properties[names[0]], root, names[0])
    return None


def _row(about: Mapping[str, Any], field: str | None) -> Choices | None:
    """Return the components of an array of integers with bounds."""
    shape, dtype = about.get("shape"), str(about.get("dtype", ""))
    if not shape or len(shape) != 1 or not shape[0] or dtype.lstrip("<>|=")[:1] not in ("i", "u"):
        return None
    bounds = []
    for name in ("low", "high"):
        bound = about.get(name)
        bounds.append(bound if isinstance(bound, list) else [bound] * shape[0])
    if not all(isinstance(each, int) for each in itertools.chain(*bounds)):
        return None
    if any(range(low, high + 1)[_MOST_ENTRIES:] for low, high in zip(*bounds, strict=True)):
        return None
    return Choices([range(low, high + 1) for low, high in zip(*bounds, strict=True)], field, dtype)


def flat_mask(mask: Any) -> list[int] | None:
    """Return a mask as numbers, one after the other; ``None`` for anything else."""
    if hasattr(mask, "tolist"):
        mask = mask.tolist()
    if not isinstance(mask, Sequence) or isinstance(mask, str | bytes):
        return None
    flat: list[int] = []
    for entry in mask:
        if isinstance(entry, Sequence) or hasattr(entry, "tolist"):
            part = flat_mask(entry) if not isinstance(entry, str | bytes) else None
            if part is None:
                return None
            flat += part
        elif isinstance(entry, int):
            flat.append(int(entry))
        else:
            return None
    return flat


def checked_mask(mask: Any, choices: Choices, whose: str) -> list[int]:
    """Return a mask with an entry for each value of each component.

    Args:
        mask: as an environment gave it.
        choices: of the schema of its actions.
        whose: names the environment in errors.

    Raises:
        InvalidObservation: it has another length, other numbers, or nothing is legal by it.
    """
    flat = flat_mask(mask)
    if flat is None or getattr(getattr(mask, "dtype", None), "kind", "i") not in "iub":
        told = getattr(mask, "dtype", None) or type(mask).__name__
        raise InvalidObservation(
            f"{whose} gave an action_mask that is not one ({told}): give an int8 or bool array,"
            " 1 for what is legal"
        )
    parts = choices.parts
    if len(flat) == len(parts) and len(flat) < choices.width and all(len(p) == 2 for p in parts):
        flat = [bit for entry in flat for bit in _BITS.get(entry, (-1, -1))]
    if len(flat) != choices.width:
        raise InvalidObservation(
            f"{whose} gave an action_mask of {len(flat)} entries for {choices.width} actions:"
            " give one for each"
        )
    if not {0, 1}.issuperset(flat):
        wrong = next(entry for entry in flat if entry not in (0, 1))
        raise InvalidObservation(
            f"{whose} gave an action_mask with the entry {wrong}: give 1 for what is legal and 0"
            " for what is not"
        )
    place = 0
    for number, part in enumerate(parts):
        if not any(flat[place : place + len(part)]):
            where = f" for component {number}" if len(parts) > 1 else ""
            raise InvalidObservation(
                f"{whose} gave an action_mask by which nothing is legal{where}: end the episode"
                " where there is nothing to do"
            )
        place += len(part)
    return flat


_BITS: Final = {0: (1, 0), 1: (0, 1), 2: (1, 1)}
"""The entries of a bit, by what it must be."""


def legal_actions(
    info: Mapping[str, Any] | None,
    choices: Choices | None,
    whose: str = "the environment",
    *,
    declared: bool = True,
) -> Sequence[Any] | None:
    """Return the actions that are legal; ``None`` where nothing is told, or they are too many.

    Args:
        info: of the observation before the action.
        choices: of the schema of the actions.
        whose: names the environment in errors.
        declared: the schema says that such things are told (``tells_legal``).

    Raises:
        InvalidObservation: a list without an action, or a mask that does not fit.
    """
    if not info:
        return None
    listed = info.get(LEGAL_ACTIONS)
    if isinstance(listed, list | tuple) and not declared:
        listed = None if choices is None else choices.understood(listed)
    if isinstance(listed, list | tuple):
        if not listed:
            raise InvalidObservation(
                f"{whose} gave an empty list of legal actions: end the episode where there is"
                " nothing to do"
            )
        return listed
    mask = info.get(ACTION_MASK)
    if mask is None or choices is None:
        return None
    kept = _kept(checked_mask(mask, choices, whose), choices)
    count = 1
    for part in kept:
        count *= len(part)
    if count > _MOST_COMBINATIONS:
        return None
    return [choices.action(values) for values in itertools.product(*kept)]


def sample_legal(
    schema: Mapping[str, Any],
    info: Mapping[str, Any] | None,
    rng: random.Random,
    choices: Choices | None = None,
) -> Any:
    """Return a random action that is legal by an info, or fits the schema where it says nothing.

    Args:
        schema: of an action.
        info: of the observation before the action.
        rng: draws.
        choices: of the schema, where they are known already.

    Raises:
        ValueError: no value fits the schema.
        InvalidObservation: nothing is legal, or the mask does not fit the schema.
    """
    if not info or (LEGAL_ACTIONS not in info and ACTION_MASK not in info):
        return sample(schema, rng)
    choices = choices or choices_of(schema)
    if LEGAL_ACTIONS not in info and choices is not None:
        kept = _kept(checked_mask(info[ACTION_MASK], choices, "the environment"), choices)
        return choices.action([rng.choice(part) for part in kept])
    listed = legal_actions(info, choices, declared=tells_legal(schema))
    return sample(schema, rng) if listed is None else rng.choice(listed)


def _kept(mask: Sequence[int], choices: Choices) -> list[list[Any]]:
    """Return the legal values of each component."""
    kept, place = [], 0
    for part in choices.parts:
        entries = mask[place : place + len(part)]
        kept.append([value for value, legal in zip(part, entries, strict=True) if legal])
        place += len(part)
    return kept


def tells_legal(schema: Mapping[str, Any]) -> bool:
    """Return whether an environment says in its action's schema that it tells what is legal."""
    try:
        return bool(resolved(schema, schema).get(LEGAL_KEY) or schema.get(LEGAL_KEY))
    except (OpenEnvError, AttributeError):
        return False
