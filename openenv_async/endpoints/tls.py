"""The certificates that a client trusts when a server speaks TLS."""

from __future__ import annotations

import ssl

__all__ = ["Trust", "trusted"]

Trust = ssl.SSLContext | str | None
"""A context, the path of a PEM file with the certificates to trust, or what the system trusts."""


def trusted(trust: Trust) -> ssl.SSLContext | None:
    """The context; ``None`` for the usual one.

    Raises:
        OSError: the file cannot be read, or holds no certificate.
    """
    if not isinstance(trust, str):
        return trust
    try:
        return ssl.create_default_context(cafile=trust)
    except ssl.SSLError as exc:
        raise ssl.SSLError(f"{trust} (ssl=) holds no certificates in PEM format") from exc
    except OSError as exc:
        raise type(exc)(exc.errno, f"{exc.strerror} (ssl=)", trust) from None
