"""Upstream's exceptions of a server, with its constructor arguments.

They are what ``HTTPEnvServer`` and its settings raise. Calls of clients raise the classes of
``openenv_async.errors``, whatever names they were imported by.
"""

from __future__ import annotations

__all__ = [
    "ConcurrencyConfigurationError",
    "EnvironmentFactoryError",
    "OpenEnvError",
    "SessionCapacityError",
    "SessionCreationError",
    "SessionNotFoundError",
]


class OpenEnvError(Exception):
    """Base of upstream's exceptions of a server."""


class ConcurrencyConfigurationError(OpenEnvError):
    """Raised for several sessions at once of an environment that does not declare them safe.

    Attributes:
        environment_name, max_concurrent_envs: the class and the number that was asked for.
    """

    def __init__(
        self, environment_name: str, max_concurrent_envs: int, message: str | None = None
    ) -> None:
        self.environment_name = environment_name
        self.max_concurrent_envs = max_concurrent_envs
        super().__init__(
            message
            or f"{environment_name} does not declare SUPPORTS_CONCURRENT_SESSIONS = True and cannot"
            f" serve {max_concurrent_envs} sessions at once: declare it where sessions share"
            " nothing, or leave max_concurrent_envs at 1"
        )


class SessionCapacityError(OpenEnvError):
    """Raised when there is no room for another session.

    Attributes:
        active_sessions, max_sessions: how many there are, and may be.
    """

    def __init__(self, active_sessions: int, max_sessions: int, message: str | None = None) -> None:
        self.active_sessions = active_sessions
        self.max_sessions = max_sessions
        super().__init__(
            message
            or f"{active_sessions} of {max_sessions} sessions are open: close one first, or raise"
            " max_concurrent_envs"
        )


class SessionNotFoundError(OpenEnvError):
    """Raised when a session is named that does not exist."""

    def __init__(self, session_id: str, message: str | None = None) -> None:
        self.session_id = session_id
        super().__init__(message or f"there is no session {session_id!r}: open one first")


class SessionCreationError(OpenEnvError):
    """Raised when a session cannot be opened."""

    def __init__(self, reason: str, message: str | None = None) -> None:
        self.reason = reason
        super().__init__(message or f"the session could not be opened: {reason}")


class EnvironmentFactoryError(OpenEnvError):
    """Raised when the class or factory of an environment raises."""

    def __init__(self, factory_name: str, message: str | None = None) -> None:
        self.factory_name = factory_name
        super().__init__(message or f"{factory_name} could not make an environment")
