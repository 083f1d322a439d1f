"""Keyword arguments of OpenEnv's ``create_app`` and ``HTTPEnvServer``, read as those of ours.

Those that mean the same are taken, so that a call needs another import and no more. Each of the
others is refused with what stands in its place.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any, Final

from openenv_async.engine import EngineOptions
from openenv_async.errors import shown

__all__ = ["read_keywords"]

_CALLED: Final = "create_app and HTTPEnvServer"
_SESSIONS: Final = "max_concurrent_envs"
_SAME: Final = {
    "action_cls": "action",
    "observation_cls": "observation",
    "state_cls": "state",
    "env_name": "name",
}
"""Keywords of OpenEnv's, and ours of the same meaning."""
_PAGE: Final = "nothing: the page at / is made of the environment's schemas"
_INSTEAD: Final = {
    "concurrency_config": "options=EngineOptions(max_sessions=…, timeouts=Timeouts(idle=…))",
    "reset_observation_cls": "observation=A | B, a union of both classes",
    "gradio_builder": _PAGE,
    "custom_tab_name": _PAGE,
    "custom_tab_primary": _PAGE,
    "show_default_tab": _PAGE,
    "title_override": "name=…",
}
"""Keywords of OpenEnv's that are not taken, and what stands in their place."""


def read_keywords(
    given: Mapping[str, Any], own: Mapping[str, Any], known: Collection[str]
) -> dict[str, Any]:
    """Return the arguments of a call with those that OpenEnv names otherwise among them.

    Args:
        given: keyword arguments that are not ours.
        own: arguments that are; ``None`` for one that was not given.
        known: names of all of ours.

    Raises:
        TypeError: a keyword is unknown, is not taken here, or says again what another one says.
    """
    found = dict(own)
    if isinstance(own.get("state"), str):  # where OpenEnv's create_app takes env_name
        raise TypeError(
            f"{_CALLED} take the state's type as its fourth argument, got {shown(own['state'])}:"
            " give the name by keyword, name=…"
        )
    for key, value in given.items():
        if key in _INSTEAD and value is None:
            continue  # OpenEnv's default
        if key in _INSTEAD:
            raise TypeError(
                f"{_CALLED} take no argument {key!r}: here it is {_INSTEAD[key]};"
                " openenv_async.compat.upstream takes it as it is"
            )
        name = "options" if key == _SESSIONS else _SAME.get(key)
        if name is None:
            near = difflib.get_close_matches(key, [*known, *_SAME], n=1, cutoff=0.6)
            hint = f"did you mean {near[0]}=?" if near else f"it takes {', '.join(known)}"
            raise TypeError(f"{_CALLED} take no argument {key!r}: {hint}")
        if value is None:
            continue  # OpenEnv's default
        if found.get(name) is not None:
            raise TypeError(f"{_CALLED} take {key} or {name}, which say the same: give one")
        found[name] = EngineOptions(max_sessions=value) if key == _SESSIONS else value
    return found
