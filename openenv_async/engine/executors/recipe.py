"""Instructions for a worker process to make its environment."""

from __future__ import annotations

import multiprocessing.spawn
import pickle
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from openenv_async.engine.executors.pipe import MAX_PIPE_MESSAGE
from openenv_async.engine.options import EngineOptions
from openenv_async.errors import OperationUnsupported
from openenv_async.types import Timeouts

if TYPE_CHECKING:
    from openenv_async.spec import EnvironmentSpec

__all__ = ["WorkerRecipe", "make_recipe"]


@dataclass(frozen=True)
class WorkerRecipe:
    """Instructions for making the environment in another process. Everything in it must pickle.

    Attributes:
        env: class or factory.
        types: action, observation and state type.
        params: constructor arguments.
        name: the environment's name.
        options: for the worker's own engine.
        shared: whether several sessions live in one process.
        sessions: how many there may be in one.
    """

    env: Any
    types: tuple[Any, Any, Any]
    params: Mapping[str, Any]
    name: str
    options: EngineOptions
    shared: bool
    sessions: int


def make_recipe(spec: EnvironmentSpec, options: EngineOptions) -> bytes:
    """Return a pickle of the preparation of a worker and of its pickled recipe.

    The preparation is that of ``multiprocessing.spawn``; the recipe is for reading after it.

    Raises:
        OperationUnsupported: it cannot be sent to another process.
    """
    never = Timeouts(**{field.name: None for field in fields(Timeouts)})
    # Over a pipe of our own nothing is cut into pieces or refused for its size or number: what
    # comes to the pipe was bounded before, and a bound there would meet all sessions.
    limits = replace(
        options.limits,
        chunk_size=sys.maxsize,
        max_message_size=MAX_PIPE_MESSAGE,
        max_channels=sys.maxsize,
        max_frames=sys.maxsize,
        max_containers=sys.maxsize,
        max_bad_frames=sys.maxsize,
        max_unsent_size=sys.maxsize,
    )
    inner = replace(
        options, workers=None, max_waiting=0, timeouts=never, limits=limits, min_free_memory=0
    )
    shared = options.workers is not None
    sessions = -(-options.max_sessions // options.workers) if options.workers else 1
    recipe = WorkerRecipe(spec.source, spec.models, spec.params, spec.name, inner, shared, sessions)
    try:
        pickled = pickle.dumps(recipe)
        # As multiprocessing does it: the parent's path and directory first, and its main module
        # where something comes from there.
        preparation = multiprocessing.spawn.get_preparation_data("openenv-worker")
        preparation.pop("authkey", None)
        if b"__main__" not in pickled:
            for key in ("init_main_from_name", "init_main_from_path"):
                preparation.pop(key, None)
        return pickle.dumps((preparation, pickled))
    except (pickle.PicklingError, AttributeError, TypeError) as exc:
        raise OperationUnsupported(
            f"{spec.name} cannot run in a process of its own: it must be an importable class or"
            f" function, not an instance, a lambda or a local class ({exc})"
        ) from None
