"""The callers of a server: the holders of its tokens, what these open, and their sessions.

Rules:

- A session belongs to the caller that opened it. Its id and secret are of no use to others, but to
  a caller who is an administrator.
- A server without named tokens knows one caller, its owner, who is an administrator.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Protocol

from openenv_async.errors import AccessRefused

__all__ = ["OWNER", "Caller", "Owned"]


class Owned(Protocol):
    """A session, or the handle of one: it belongs to a caller."""

    @property
    def caller(self) -> Caller: ...


class Caller:
    """The holder of a token.

    Args:
        name: in messages and metrics; ``None`` for the holder of the only token, or for everybody
            where the server asks for none.
        is_admin: may drain and reload the server, and sees all sessions.
        environments: names of those that it may use; ``None`` for all.
    """

    def __init__(
        self,
        name: str | None,
        *,
        is_admin: bool = False,
        environments: Collection[str] | None = None,
    ) -> None:
        self.name: Final = name
        self.is_admin = is_admin
        self.environments = None if environments is None else frozenset(environments)

    def __repr__(self) -> str:
        return f"Caller({self.name!r})"

    def may_see(self, owned: Owned) -> bool:
        """Return whether a session may be seen, followed, cancelled and closed by this caller."""
        return self.is_admin or owned.caller is self

    def check_admin(self, what: str) -> None:
        """Let an administrator through.

        Args:
            what: the caller wants to do, for the message.

        Raises:
            AccessRefused: this is none.
        """
        if not self.is_admin:
            raise AccessRefused(
                f"{what} needs an administrator's token, which {self._token} is not: ask who runs"
                " the server"
            )

    def check_environment(self, name: str | None) -> None:
        """Let a caller through who may use an environment; ``None`` is none in particular.

        Raises:
            AccessRefused: it may not.
        """
        if name is not None and self.environments is not None and name not in self.environments:
            allowed = ", ".join(sorted(self.environments)) or "none"
            raise AccessRefused(
                f"{self._token} does not open the environment {name!r:.80}, only {allowed}: use"
                " another token, or ask who runs the server",
                environment=name,
            )

    @property
    def _token(self) -> str:
        return "this token" if self.name is None else f"the token {self.name!r:.80}"


OWNER: Final = Caller(None, is_admin=True)
"""The one caller of a server without named tokens."""
