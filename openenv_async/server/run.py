"""Running a server: inside a test or script (``serve``), or as a process of its own.

A server that other machines can reach needs a token; without one it is refused unless its owner
says that this is meant (``insecure``).
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import difflib
import errno
import gc
import inspect
import ipaddress
import itertools
import logging
import os
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Final

import uvicorn

from openenv_async.engine import EngineOptions
from openenv_async.engine.collector import paced_collector
from openenv_async.engine.resources import raise_descriptors
from openenv_async.errors import shown
from openenv_async.event_loop import loop_factory
from openenv_async.server import create_app
from openenv_async.server.drain import checked_seconds
from openenv_async.server.owner_lease import OwnerLease
from openenv_async.server.uvicorn_protocols import DirectWebSocket, http_protocol
from openenv_async.types import MAX_SECONDS

__all__ = [
    "Server",
    "address",
    "listen",
    "on_signals",
    "run_server",
    "running",
    "serve",
    "uvicorn_config",
]

_STDIN: Final = 0
_SILENT: Final = logging.Logger("openenv_async.silent", logging.CRITICAL + 1)


def uvicorn_config(app: Any, options: EngineOptions, **settings: Any) -> uvicorn.Config:
    """Uvicorn as this runtime wants it: no deflate, no pings that kill, bounded shutdown.

    Raises:
        ValueError: the certificate or key cannot be used.
    """
    if settings.get("ssl_keyfile") and not settings.get("ssl_certfile"):
        raise ValueError("a key needs its certificate (--ssl-certfile; ssl_certfile=)")
    config = uvicorn.Config(
        app,
        http=http_protocol(options.timeouts.write, options.timeouts.connect),
        ws=DirectWebSocket,
        ws_max_size=options.limits.max_message_size,
        ws_ping_interval=None,
        ws_ping_timeout=None,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=int(options.close_grace) + 1,
        **{"log_level": "warning", "access_log": False, "lifespan": "on", **settings},
    )
    try:
        config.load()
    except (ssl.SSLError, OSError) as exc:
        reason = (getattr(exc, "reason", None) or exc.strerror or "").replace("_", " ").lower()
        raise ValueError(
            f"the certificate or key cannot be used ({reason}): they must be in PEM format, and"
            f" belong together: {settings.get('ssl_certfile')}, {settings.get('ssl_keyfile')}"
        ) from exc
    return config


class Server(uvicorn.Server):
    """A uvicorn server that says when it listens, and that leaves signals to its owner."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = asyncio.Event()
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Shut down; asked a second time, without waiting for connections or environments."""
        self.force_exit = self.should_exit
        if self.force_exit:
            lifespan: Any = getattr(self, "lifespan", None)
            if hasattr(lifespan, "logger"):
                lifespan.logger = _SILENT  # its task is cancelled, which is not to be logged
            env_server = self._env_server()
            if env_server is not None:
                env_server.hurry()
        self.should_exit = True
        self._stopping.set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start as uvicorn does, then set ``listening``."""
        await super().startup(sockets)
        self.listening.set()

    async def main_loop(self) -> None:
        """Run as uvicorn does, but woken by ``stop`` instead of looking ten times a second."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), 1.0)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, tell the clients and close the environments, then their sockets."""
        for server in self.servers:
            server.close()
        env_server = self._env_server()
        if env_server is not None and not self.force_exit:
            await env_server.aclose("shutdown")
            for _ in range(3):  # the writers flush a turn after they are woken
                await asyncio.sleep(0)
        await super().shutdown(sockets)

    def _env_server(self) -> Any:
        return getattr(getattr(self.config.app, "state", None), "openenv", None)

    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        """The loop's owner handles signals."""
        yield


@contextlib.asynccontextmanager
async def serve(
    env: Any,
    *args: Any,
    host: str = "127.0.0.1",
    port: int = 0,
    options: EngineOptions | None = None,
    insecure: bool = False,
    ssl_certfile: str | None = None,
    ssl_keyfile: str | None = None,
    **server: Any,
) -> AsyncIterator[str]:
    """Serve an environment in this loop.

    ``async with serve(MyEnvironment) as url:``

    Args:
        env: as for ``create_app``, or an ASGI application.
        args: as for ``create_app``.
        host: where to listen.
        port: where to listen; 0 takes a free one.
        options: capacity, deadlines, sizes.
        insecure: listen without a token where other machines can connect.
        ssl_certfile, ssl_keyfile: PEM files, for https and wss.
        server: as for ``create_app``, ``token`` and ``allowed_origins`` among them.

    Raises:
        TypeError: ``env`` is not an environment, or an argument is of the wrong kind.
        OSError: the address cannot be had.
        ValueError: other machines could connect and there is no token; or the certificate or key
            cannot be used.
    """
    options = _checked(options, host, port, server)
    app = _app(env, options, *args, **server)
    tls = {"ssl_certfile": ssl_certfile, "ssl_keyfile": ssl_keyfile}
    runner, listener = _made(app, options, host, port, insecure, tls)
    async with running(runner, listener):
        yield address(host, listener, runner.config.is_ssl)


def run_server(
    env: Any,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    options: EngineOptions | None = None,
    on_listening: Callable[[str], None] | None = None,
    uvloop: bool | None = None,
    until_stdin_closes: bool = False,
    drain: float | None = None,
    owner_lease: float | None = None,
    insecure: bool = False,
    ssl_certfile: str | None = None,
    ssl_keyfile: str | None = None,
    uvicorn_settings: Mapping[str, Any] | None = None,
    **server: Any,
) -> None:
    """Serve until SIGTERM or SIGINT, then shut down cleanly; another signal hurries.

    A process that was started with SIGINT ignored, as shells do in the background, goes on
    ignoring it.

    Args:
        env: as for ``serve``.
        host: where to listen.
        port: where to listen; 0 takes a free one.
        options: capacity, deadlines, sizes.
        on_listening: called with the address when connections are taken.
        uvloop: whether to run on uvloop; ``None``: where it is installed, as it is by default.
        until_stdin_closes: also stop when standard input ends, as it does when the process
            that holds its other end is gone, however it went.
        drain: seconds that the episodes under way have to end after a SIGTERM, while no other
            begins; ``None``: none, they end with the server.
        owner_lease: seconds without an open connection or an authenticated request after which
            to stop as well; ``None``: never.
        insecure: listen without a token where other machines can connect.
        ssl_certfile, ssl_keyfile: PEM files, for https and wss.
        uvicorn_settings: more arguments of ``uvicorn.Config``.
        server: as for ``create_app``, ``token`` and ``allowed_origins`` among them.

    Raises:
        OSError: the address cannot be had.
        RuntimeError: the application did not start.
        ValueError: other machines could connect and there is no token; or the certificate or key
            cannot be used.
    """
    options = _checked(options, host, port, server)
    app = _app(env, options, **server)
    env_server = getattr(getattr(app, "state", None), "openenv", None)
    if owner_lease is not None and not 0 < owner_lease <= MAX_SECONDS:
        raise ValueError(f"an owner's lease is a positive number of seconds, got {owner_lease!r}")
    if owner_lease is not None and env_server is None:
        raise ValueError("an owner's lease needs an application made with create_app")
    if drain is not None and env_server is None:
        raise ValueError("draining needs an application made with create_app")
    if drain is not None:
        checked_seconds(drain)
    settings = {"ssl_certfile": ssl_certfile, "ssl_keyfile": ssl_keyfile}
    settings |= uvicorn_settings or {}
    raise_descriptors()

    async def main() -> None:
        runner, listener = _made(app, options, host, port, insecure, settings)
        signals = itertools.count()

        def terminate() -> None:
            if env_server is None or drain is None or next(signals):
                runner.stop()
            else:
                env_server.drain.begin(drain, runner.stop)

        loop = asyncio.get_running_loop()
        on_signals(loop, runner.stop, terminate)
        reload = getattr(env_server, "reload", None)
        if reload is not None and hasattr(signal, "SIGHUP"):
            loop.add_signal_handler(signal.SIGHUP, reload.begin)
        async with running(runner, listener) as task:
            # Imported modules stay: collections need not walk it while sessions come and go.
            gc.collect()
            gc.freeze()
            if until_stdin_closes:
                _on_stdin_closed(loop, runner.stop)
            with paced_collector(lambda: 0 if env_server is None else env_server.sessions):
                async with _leased(env_server, owner_lease, runner.stop):
                    if on_listening is not None:
                        on_listening(address(host, listener, runner.config.is_ssl))
                    await task

    with asyncio.Runner(loop_factory=loop_factory(uvloop)) as runner:
        runner.run(main())


def _checked(options: Any, host: Any, port: Any, server: Mapping[str, Any]) -> EngineOptions:
    """The options; raised here is what Uvicorn or the sockets would say in their own words.

    Raises:
        TypeError, ValueError: an argument is of the wrong kind or unknown.
    """
    if options is not None and not isinstance(options, EngineOptions):
        raise TypeError(f"options must be an EngineOptions, got {shown(options)}")
    if not isinstance(host, str) or not host:
        raise TypeError(f"host must be the address to listen on as text, got {shown(host)}")
    if not isinstance(port, int) or isinstance(port, bool):
        raise TypeError(f"port must be an integer, got {shown(port)}")
    if not 0 <= port <= 65535:
        raise ValueError(f"port must be from 0 to 65535 (0 takes a free one), got {port}")
    known = [*inspect.signature(create_app).parameters]
    for name in server:
        if name in known:
            continue
        if name in ("timeout", "timeouts"):
            cure = "deadlines are options=EngineOptions(timeouts=Timeouts(step=5))"
        elif name in {each.name for each in dataclasses.fields(EngineOptions)}:
            cure = f"it is one of options=EngineOptions({name}=…)"
        else:
            near = difflib.get_close_matches(name, known, n=1)
            cure = f"did you mean {near[0]}=?" if near else f"it takes {', '.join(known)}"
        raise TypeError(f"serve takes no argument {name!r}: {cure}")
    return options or EngineOptions()


def _made(
    app: Any,
    options: EngineOptions,
    host: str,
    port: int,
    insecure: bool,
    settings: Mapping[str, Any],
) -> tuple[Server, socket.socket]:
    """A server of ``app`` and the bound socket that it is to listen on."""
    server = Server(uvicorn_config(app, options, **settings))
    return server, listen(host, port, private=not (insecure or _is_guarded(app)))


@contextlib.asynccontextmanager
async def running(runner: Server, listener: socket.socket) -> AsyncIterator[asyncio.Task[None]]:
    """The task of a server that listens; it is stopped and waited for at the end.

    Stopping has deadlines of its own: cancelled once, it still ends as it should.

    Raises:
        RuntimeError: the application did not start.
    """
    task = asyncio.create_task(runner.serve([listener]), name="openenv-server")
    try:
        await _listening(runner, task)
        yield task
    finally:
        runner.stop()
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            await asyncio.wait([task])
            raise
        finally:
            task.cancel()
            listener.close()


@contextlib.asynccontextmanager
async def _leased(
    env_server: Any, seconds: float | None, stop: Callable[[], None]
) -> AsyncIterator[None]:
    """Call ``stop``, meanwhile, when the owner of ``env_server`` did not show up for so long."""
    if seconds is None:
        yield
        return
    lease = OwnerLease(env_server, seconds, stop)
    try:
        yield
    finally:
        await lease.aclose()


def listen(host: str, port: int, *, private: bool = False) -> socket.socket:
    """A bound socket.

    Args:
        host, port: where.
        private: refuse an address that other machines can reach.

    Raises:
        OSError: the address cannot be had.
        ValueError: it must be private and is not.
    """
    try:
        family, kind, proto, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as exc:
        raise OSError(
            exc.errno, f"cannot listen on {host}:{port}: this machine has no address {host!r}"
        ) from exc
    if private and not ipaddress.ip_address(where[0]).is_loopback:
        raise ValueError(
            f"without a token nobody but this machine may connect, and {host} is open to others:"
            " give a token (--token-file or OPENENV_TOKEN; token=), listen on 127.0.0.1, or say"
            " that it is meant (--insecure; insecure=True)"
        )
    listener = socket.socket(family, kind, proto)
    try:
        if os.name == "posix":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(where)
    except OSError as exc:
        listener.close()
        cure = {
            errno.EADDRINUSE: "the port is in use, stop what listens there or take another one"
            " (0 takes one that is free)",
            errno.EADDRNOTAVAIL: "this machine has no such address",
            errno.EACCES: "ports below 1024 are for the administrator, take another one",
        }.get(exc.errno or 0, str(exc.strerror))
        raise type(exc)(exc.errno, f"cannot listen on {host}:{port}: {cure}") from exc
    except BaseException:
        listener.close()
        raise
    return listener


def address(host: str, listener: socket.socket, tls: bool = False) -> str:
    """The URL of a bound socket."""
    bound = listener.getsockname()[1]
    return f"http{'s' if tls else ''}://{f'[{host}]' if ':' in host else host}:{bound}"


async def _listening(runner: Server, task: asyncio.Task[None]) -> None:
    """Return when ``runner`` listens.

    Raises:
        RuntimeError: it ended instead.
    """
    waiting = asyncio.create_task(runner.listening.wait())
    try:
        await asyncio.wait([waiting, task], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    if task.done():
        error = None if task.cancelled() else task.exception()
        raise RuntimeError("the server ended while starting: see its log") from error


def on_signals(
    loop: asyncio.AbstractEventLoop,
    stop: Callable[[], None],
    terminate: Callable[[], None] | None = None,
) -> None:
    """Call ``stop`` on SIGTERM and SIGINT; the latter not where it is ignored already.

    Args:
        loop: that runs.
        stop: to be called.
        terminate: called in its place on SIGTERM.
    """
    for number, call in ((signal.SIGINT, stop), (signal.SIGTERM, terminate or stop)):
        if number == signal.SIGINT and signal.getsignal(number) is signal.SIG_IGN:
            continue  # started in the background of a shell: an interrupt is not for this process
        try:
            loop.add_signal_handler(number, call)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda *_, call=call: loop.call_soon_threadsafe(call))


def _on_stdin_closed(loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    def look() -> None:
        if not os.read(_STDIN, 4096):
            loop.remove_reader(_STDIN)
            stop()

    if sys.stdin is not None:
        loop.add_reader(_STDIN, look)


def _app(env: Any, options: EngineOptions, *args: Any, **server: Any) -> Any:
    if not _is_app(env):
        return create_app(env, *args, options=options, **server)
    if args or server:  # a token, for one, must not be lost in silence
        raise TypeError("an application is served as it is: give these arguments to create_app")
    return env


def _is_guarded(app: Any) -> bool:
    """Return whether an application is known to ask for a token."""
    env_server = getattr(getattr(app, "state", None), "openenv", None)
    return env_server is not None and not env_server.guard.open


def _is_app(env: Any) -> bool:
    return hasattr(env, "routes") and callable(env)
