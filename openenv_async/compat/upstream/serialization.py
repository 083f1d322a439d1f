"""Upstream's functions between models and what travels."""

from __future__ import annotations

import contextlib
import json
from typing import Any, Final

from openenv_async.compat.upstream.mcp_types import CallToolAction, ListToolsAction
from openenv_async.compat.upstream.types import Action, Observation

__all__ = ["deserialize_action", "deserialize_action_with_preprocessing", "serialize_observation"]

_TOOL_ACTIONS: Final[dict[str, type[Action]]] = {
    "list_tools": ListToolsAction,
    "call_tool": CallToolAction,
}
"""Actions of tools by their ``type``, where the action class leaves the kind of action open."""


def deserialize_action(action_data: dict[str, Any], action_cls: type[Action]) -> Action:
    """Return the action that a dict of its fields stands for.

    A ``type`` of ``list_tools`` or ``call_tool`` makes an action of tools where the class is
    ``Action`` itself or one of these two; elsewhere it is a field as any other.

    Raises:
        pydantic.ValidationError: the fields do not fit.
    """
    chosen = action_cls
    if action_cls is Action or action_cls in _TOOL_ACTIONS.values():
        kind = action_data.get("type")
        chosen = _TOOL_ACTIONS.get(kind, action_cls) if isinstance(kind, str) else action_cls
    return chosen.model_validate(action_data)


def deserialize_action_with_preprocessing(
    action_data: dict[str, Any], action_cls: type[Action]
) -> Action:
    """Return the action of fields that come from a form, where values may be text.

    ``arguments`` of a tool and ``tokens`` may be JSON text, ``action_id`` the digits of a number.
    Tokens are made a tensor where torch is installed.

    Raises:
        pydantic.ValidationError: the fields do not fit.
    """
    fields = dict(action_data)
    if fields.get("type") == "call_tool" and isinstance(fields.get("arguments"), str):
        with contextlib.suppress(ValueError):
            fields["arguments"] = json.loads(fields["arguments"])
    if isinstance(fields.get("tokens"), list | str):
        fields["tokens"] = _tokens(fields["tokens"])
    if isinstance(fields.get("action_id"), str):
        with contextlib.suppress(ValueError):
            fields["action_id"] = int(fields["action_id"])
    return deserialize_action(fields, action_cls)


def _tokens(value: list[Any] | str) -> Any:
    """Tokens as a tensor, or as the list that they are; none where the text is not JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            value = []
    try:
        import torch
    except ImportError:
        return value
    return torch.tensor(value, dtype=torch.long) if isinstance(value, list) else value


def serialize_observation(observation: Observation) -> dict[str, Any]:
    """Return an observation as it travels: its fields, and beside them reward and done.

    ``metadata`` is among the fields, and beside them as well where there is any.
    """
    told: dict[str, Any] = {
        "observation": observation.model_dump(exclude={"reward", "done"}),
        "reward": observation.reward,
        "done": observation.done,
    }
    return {**told, "metadata": observation.metadata} if observation.metadata else told
