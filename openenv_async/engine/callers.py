"""The callers of a server: the holders of its tokens, what these open, and their sessions.

Rules:

- A session belongs to the caller that opened it. Its id and secret are of no use to others, but to
  a caller who is an administrator.
- A server without named tokens knows one caller, its owner, who is an administrator.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import inf
from typing import Final, Protocol

from openenv_async.errors import AccessRefused

__all__ = ["OWNER", "Bucket", "Caller", "Owned", "Quota"]


@dataclass(frozen=True, slots=True)
class Quota:
    """The most that a caller may use; ``None`` for no limit.

    Attributes:
        max_sessions: sessions at once, in all environments together.
        steps_per_second: steps and resets; each row of a vector is one.
        burst: steps and resets that may come at once after a pause; by default those of a second.
        bytes_per_second: of messages and bodies, in and out together; as many may come at once.
    """

    max_sessions: int | None = None
    steps_per_second: float | None = None
    burst: float | None = None
    bytes_per_second: float | None = None


class Bucket:
    """A token bucket that may go into debt.

    Args:
        rate: that it is filled with, a second; ``None`` for one that is always full.
        size: that it holds.
    """

    __slots__ = ("_at", "_level", "_rate", "_size")

    def __init__(self, rate: float | None = None, size: float | None = None) -> None:
        self._rate = inf if rate is None else rate
        self._size = self._level = self._rate if size is None else size
        self._at = -inf

    def take(self, count: float, now: float) -> float:
        """Take so many; return the seconds until the bucket has made up for them."""
        rate = self._rate
        if rate == inf:
            return 0.0
        level = min(self._size, self._level + (now - self._at) * rate) - count
        self._level, self._at = level, now
        return -level / rate if level < 0 else 0.0

    def give_back(self, count: float) -> None:
        """Put so many back."""
        self._level += count

    def change(self, rate: float | None, size: float | None = None) -> None:
        """Fill it at another rate from now on; a debt stays one."""
        was_limited = self._rate != inf
        level = self._level
        self._rate = inf if rate is None else rate
        self._size = self._level = self._rate if size is None else size
        if was_limited:
            self._level = min(self._size, level)


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
        quota: the most that it may use.
        labels: of its own, in metrics.
        expires_at: when its token ends, in seconds since the epoch.

    Attributes:
        sessions: that it has, in all environments.
        is_revoked: its token is not valid any more.
        step_bucket, byte_bucket: what it may still use now.
    """

    def __init__(
        self,
        name: str | None,
        *,
        is_admin: bool = False,
        environments: Collection[str] | None = None,
        quota: Quota | None = None,
        labels: Mapping[str, str] | None = None,
        expires_at: float = inf,
    ) -> None:
        self.name: Final = name
        self.is_admin = is_admin
        self.environments = None if environments is None else frozenset(environments)
        self.quota = quota or Quota()
        self.labels = dict(labels or {})
        self.expires_at = expires_at
        self.is_revoked = False
        self.sessions = 0
        self.step_bucket = Bucket(self.quota.steps_per_second, self.quota.burst)
        self.byte_bucket = Bucket(self.quota.bytes_per_second)

    def become(self, other: Caller) -> None:
        """Have all that another one of this name has, but its sessions and debts."""
        self.is_admin, self.environments = other.is_admin, other.environments
        self.labels, self.expires_at, self.is_revoked = other.labels, other.expires_at, False
        if self.quota != other.quota:
            self.quota = other.quota
            self.step_bucket.change(self.quota.steps_per_second, self.quota.burst)
            self.byte_bucket.change(self.quota.bytes_per_second)

    def is_as(self, other: Caller) -> bool:
        """Return whether another one may do and use the same."""
        names = ("is_admin", "environments", "quota", "labels", "expires_at")
        return all(getattr(self, name) == getattr(other, name) for name in names)

    def is_valid(self, now: float) -> bool:
        """Return whether its token opens anything, at a time in seconds since the epoch."""
        return not self.is_revoked and now < self.expires_at

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
