"""One conformance suite, run over every door of any server.

Each behaviour is one named check: an async function with a docstring that says what is promised.
A ``Door`` opens sessions in one way: native MessagePack, native JSON, upstream's dialect, HTTP,
or in process. A server of ``openenv_async.testing:ConformanceEnvironment`` is put through all of
them; any other server through the generic ones, with actions drawn from its schema.

``await run(url)`` checks a server, ``openenv-async conformance URL`` prints the result.
"""

from openenv_async.checks.conformance.suite import Suite, run
from openenv_async.checks.registry import (
    CHECKS,
    Check,
    CheckFailed,
    Result,
    Skipped,
    Subject,
)
from openenv_async.checks.transports import (
    Conversation,
    Door,
    HTTPDoor,
    MemoryDoor,
    NativeDoor,
    UpstreamDoor,
)

__all__ = [
    "CHECKS",
    "Check",
    "CheckFailed",
    "Conversation",
    "Door",
    "HTTPDoor",
    "MemoryDoor",
    "NativeDoor",
    "Result",
    "Skipped",
    "Subject",
    "Suite",
    "UpstreamDoor",
    "run",
]
