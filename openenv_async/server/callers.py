"""The tokens of a server, held as digests, and whose each is."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Iterable
from typing import Final

from openenv_async.endpoints.tokens import check_token
from openenv_async.engine.callers import OWNER, Caller, Owned

__all__ = ["AGENTS", "NOBODY", "Callers", "digest_of"]


class _Agents(Caller):
    """All who show a token that is for agents: a handle is what tells them apart."""

    def may_see(self, owned: Owned) -> bool:
        """Return True: only MCP asks, of a session whose handle this caller has."""
        return True


AGENTS: Final = _Agents(None)
NOBODY: Final = Caller(None)
"""The caller of a request that no guard has let in."""


def digest_of(token: str | bytes) -> bytes:
    """Return the SHA-256 of a token, 32 bytes.

    A plain hash is enough for what has 256 random bits; no salt and no slow hash would keep a
    short word from being guessed, so do not hold one so.
    """
    return hashlib.sha256(token.encode() if isinstance(token, str) else token).digest()


class Callers:
    """The callers that may come in, by the tokens that they show.

    Args:
        token: the server's only one; ``None`` where there is none.
        admin_token: that of its administrator, where the other one is not.

    Raises:
        ValueError: a token cannot be sent in a header, or both are the same, or only the
            administrator has one.
    """

    def __init__(self, token: str | None = None, admin_token: str | None = None) -> None:
        self._held: tuple[tuple[bytes, Caller], ...] = ()
        if token is not None:
            check_token(token)
            user = OWNER if admin_token is None else Caller(None)
            self._held = ((digest_of(token), user),)
        if admin_token is not None:
            check_token(admin_token)
            if token is None:
                raise ValueError(
                    "an administrator's token keeps nothing from others while the server asks for"
                    " none: give it a token as well (--token-file or OPENENV_TOKEN; token=)"
                )
            if admin_token == token:
                raise ValueError("the administrator's token must be another one than the server's")
            self._held += ((digest_of(admin_token), Caller(None, is_admin=True)),)

    def hold(self, held: Iterable[tuple[Caller, Collection[bytes]]]) -> None:
        """Let the holders of these tokens in, and nobody else.

        Args:
            held: each caller with the SHA-256 of its tokens; during a change it may have several.
        """
        self._held = tuple((digest, caller) for caller, digests in held for digest in digests)

    def update(
        self, wanted: Iterable[tuple[Caller, Collection[bytes]]] | None
    ) -> tuple[dict[str, list[str]], list[Caller]]:
        """Let these in from now on, and nobody else; callers of the same name stay who they are.

        Args:
            wanted: each caller with the SHA-256 of its tokens; ``None`` changes nothing.

        Returns:
            The names of those that were added, changed and removed, and the removed ones.
        """
        before = {caller.name: caller for _, caller in self._held}
        known = {digest: caller.name for digest, caller in self._held}
        told: dict[str, list[str]] = {"added": [], "changed": [], "removed": []}
        held: list[tuple[Caller, Collection[bytes]]] = []
        if wanted is None:
            return told, []
        for new, digests in wanted:
            caller = before.pop(new.name, None)
            if caller is None:
                told["added"].append(str(new.name))
                caller = new
            else:
                same = {digest for digest, name in known.items() if name == new.name}
                if same != set(digests) or not caller.is_as(new):
                    told["changed"].append(str(new.name))
                caller.become(new)
            held.append((caller, digests))
        for caller in before.values():
            caller.is_revoked = True
            told["removed"].append(str(caller.name))
        self.hold(held)
        return told, [*before.values()]

    @property
    def open(self) -> bool:
        """True if no token is needed."""
        return not self._held

    def find(self, shown: Iterable[bytes]) -> Caller | None:
        """Return whose one of the tokens is that a request shows; ``None`` if it is nobody's.

        Each is compared with every digest, in constant time.
        """
        found = None
        for each in shown:
            digest = digest_of(each)
            for held, caller in self._held:
                if hmac.compare_digest(held, digest):
                    found = caller
        return found
