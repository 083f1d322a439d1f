"""Upstream's ``HTTPEnvServer`` and its functions that make applications, over our engine.

An application that upstream's own code made serves sessions of upstream's threads; one made here
serves those of our engine, on all of its transports, under upstream's keywords. FastAPI makes the
application where it is installed, else Starlette does.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from starlette.applications import Starlette

from openenv_async.compat.upstream.exceptions import ConcurrencyConfigurationError
from openenv_async.compat.upstream.types import (
    ConcurrencyConfig,
    ServerCapacityStatus,
    ServerMode,
    SessionInfo,
    State,
)
from openenv_async.engine import EngineOptions
from openenv_async.errors import shown
from openenv_async.hosts.upstream import AppCall, class_made, host_of_call
from openenv_async.server import app as served
from openenv_async.types import Timeouts

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["HTTPEnvServer", "create_app", "create_fastapi_app"]

log = logging.getLogger("openenv_async.compat")

_TITLE: Final = "OpenEnv environment"


class HTTPEnvServer:
    """A server of one environment under upstream's names.

    Args:
        env: an environment class or a factory, called once per session.
        action_cls, observation_cls: its models.
        max_concurrent_envs: sessions at once; 1 by default.
        concurrency_config: the same with an idle limit, in place of ``max_concurrent_envs``.
        env_name: its name in the routes of tasks.
        state_cls: the model of its state.
        reset_observation_cls: the model that ``reset`` returns, where it is another one.

    Raises:
        TypeError: ``env`` cannot be called.
        ValueError: both ways to say how many sessions are used.
        ConcurrencyConfigurationError: the class does not declare several sessions at once safe.
    """

    def __init__(
        self,
        env: Callable[[], Any],
        action_cls: Any,
        observation_cls: Any,
        max_concurrent_envs: int | None = None,
        concurrency_config: ConcurrencyConfig | None = None,
        env_name: str | None = None,
        state_cls: Any = State,
        *,
        reset_observation_cls: Any = None,
    ) -> None:
        if not callable(env):
            raise TypeError(
                f"env must be callable, an environment class or a factory, got {shown(env)}: pass"
                " the class in place of an instance"
            )
        if max_concurrent_envs is not None and concurrency_config is not None:
            raise ValueError(
                "Cannot specify both 'max_concurrent_envs' and 'concurrency_config': leave one out"
            )
        if concurrency_config is None:
            concurrency_config = ConcurrencyConfig(max_concurrent_envs=max_concurrent_envs or 1)
        self._env = env
        self.action_cls = action_cls
        self.observation_cls = observation_cls
        self.reset_observation_cls = reset_observation_cls or observation_cls
        self.state_cls = state_cls
        self.env_name = env_name or getattr(env, "__name__", "environment")
        self.concurrency_config = concurrency_config
        if concurrency_config.max_concurrent_envs > 1 and not self.is_concurrency_safe:
            raise ConcurrencyConfigurationError(
                self._environment_class.__name__, concurrency_config.max_concurrent_envs
            )

    @functools.cached_property
    def _environment_class(self) -> Any:
        """The class of the environment."""
        return class_made(self._env)

    @functools.cached_property
    def server(self) -> served.HTTPEnvServer:
        """This runtime's server of the environment, made when it is first asked for."""
        concurrency = self.concurrency_config
        host = host_of_call(
            AppCall(
                self._env,
                self.action_cls,
                self.observation_cls,
                self.state_cls,
                self.env_name,
                concurrency.max_concurrent_envs,
            )
        )
        idle = concurrency.session_timeout
        options = EngineOptions(
            max_sessions=concurrency.max_concurrent_envs,
            timeouts=Timeouts() if idle is None else Timeouts(idle=idle),
        )
        # All routes: which of them an application gets is said when they are registered.
        return served.HTTPEnvServer(host, options=options, stateless_http=True, mode="simulation")

    @property
    def active_sessions(self) -> int:
        """Sessions that are open."""
        return self.server.engine.active

    @property
    def max_concurrent_envs(self) -> int:
        """Sessions that may be open."""
        return self.concurrency_config.max_concurrent_envs

    @property
    def is_concurrency_safe(self) -> bool:
        """True if the class declares several sessions at once safe."""
        return bool(getattr(self._environment_class, "SUPPORTS_CONCURRENT_SESSIONS", False))

    def get_capacity_status(self) -> ServerCapacityStatus:
        """Return how many sessions there are, and may be."""
        return ServerCapacityStatus.from_counts(self.active_sessions, self.max_concurrent_envs)

    def get_session_info(self, session_id: str) -> SessionInfo | None:
        """Return facts about an open session; ``None`` where there is none of that id."""
        engine = self.server.engine
        session = engine.sessions.get(session_id)
        if session is None:
            return None
        began = time.time() - engine.clock()
        return SessionInfo(
            session_id=session_id,
            created_at=began + session.opened_at,
            last_activity_at=began + session.active_at,
            step_count=session.runner.steps,
            environment_type=self._environment_class.__name__,
        )

    def register_routes(self, app: Any, mode: ServerMode | str = ServerMode.SIMULATION) -> None:
        """Add the environment's routes to an application.

        Args:
            app: a FastAPI or Starlette application.
            mode: ``simulation``, or ``production`` for a server without ``/reset``, ``/step`` and
                ``/state``.

        Raises:
            ValueError: there is no such mode.
        """
        self.server.register_routes(app, mode)


def create_fastapi_app(
    env: Callable[[], Any],
    action_cls: Any,
    observation_cls: Any,
    max_concurrent_envs: int | None = None,
    concurrency_config: ConcurrencyConfig | None = None,
    env_name: str | None = None,
    state_cls: Any = State,
    *,
    mode: ServerMode | str | None = None,
    reset_observation_cls: Any = None,
) -> FastAPI:
    """Return an application that serves an environment.

    Args:
        mode: by default that of the environment variable ``OPENENV_MODE``, else ``simulation``.

    The other arguments are those of ``HTTPEnvServer``, which says what is raised.
    """
    server = HTTPEnvServer(
        env,
        action_cls,
        observation_cls,
        max_concurrent_envs,
        concurrency_config,
        env_name,
        state_cls,
        reset_observation_cls=reset_observation_cls,
    )
    app = _application()
    server.register_routes(app, mode=mode or os.environ.get("OPENENV_MODE", "simulation"))
    return app  # type: ignore[no-any-return]  # Starlette's where there is no FastAPI


def create_app(
    env: Callable[[], Any],
    action_cls: Any,
    observation_cls: Any,
    env_name: str | None = None,
    max_concurrent_envs: int | None = None,
    concurrency_config: ConcurrencyConfig | None = None,
    gradio_builder: Callable[..., Any] | None = None,
    custom_tab_name: str = "Custom",
    custom_tab_primary: bool = False,
    show_default_tab: bool = True,
    title_override: str | None = None,
    state_cls: Any = State,
    *,
    mode: ServerMode | str | None = None,
    reset_observation_cls: Any = None,
) -> FastAPI:
    """Return an application that serves an environment.

    Args:
        gradio_builder, custom_tab_name, custom_tab_primary, show_default_tab, title_override: of
            upstream's web interface, which is not made here; the log says so where one is given.

    The other arguments are those of ``create_fastapi_app``.
    """
    if gradio_builder is not None:
        log.info(
            "the Gradio page of %s is not served: `openenv-async serve` has a page of its own at /",
            env_name or getattr(env, "__name__", "this environment"),
        )
    return create_fastapi_app(
        env,
        action_cls,
        observation_cls,
        max_concurrent_envs,
        concurrency_config,
        env_name,
        state_cls,
        mode=mode,
        reset_observation_cls=reset_observation_cls,
    )


def _application() -> Any:
    """An empty application: FastAPI's where it is installed."""
    if importlib.util.find_spec("fastapi") is None:
        return _PlainApplication()
    from fastapi import FastAPI

    return FastAPI(title=_TITLE, version="1.0.0")


class _PlainApplication(Starlette):
    """An application without FastAPI: what is added to it in FastAPI's ways is not served."""

    def _left_out(self, what: str = "a route", *_: Any, **__: Any) -> Callable[[Any], Any]:
        log.warning(
            "%s of the application is not served, since it takes FastAPI: pip install fastapi", what
        )
        return lambda function: function

    get = post = put = patch = delete = options = head = api_route = websocket = _left_out
    middleware = on_event = exception_handler = _left_out

    def include_router(self, router: Any, **_: Any) -> None:
        """Leave out a router's routes."""
        self._left_out(f"a router of {len(router.routes)} routes")
