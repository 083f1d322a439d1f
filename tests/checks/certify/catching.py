"""Certificates of environments that are broken on purpose."""

from __future__ import annotations

from typing import Any

from openenv_async.checks.certify import Certificate, certify

__all__ = ["certified", "failed"]


async def certified(target: Any, *names: str, **options: Any) -> Certificate:
    """The certificate of a target, of a few episodes."""
    return await certify(target, names=names or None, **{"episodes": 16, "seconds": 5.0, **options})


async def failed(target: Any, *names: str) -> dict[str, str]:
    """The lines that failed, with the reasons."""
    certificate = await certified(target, *names)
    return {result.name: result.reason for result in certificate.of("failed")}
