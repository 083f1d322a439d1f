"""The main function of a worker process: an engine of its own behind a Unix socket.

Rules:

- Async environments run on the engine's loop, on the main thread.
- Sync ones run on the main thread, which has no event loop, while the engine's loop runs on
  another thread: where a session has the process to itself, and where the class is not safe in
  threads. Otherwise those that share the process run in threads, and the engine's loop on the
  main one.
- Nothing that an environment does short of ending the process ends the worker: not what it
  raises, nor stopping the loop, cancelling tasks that are not its own, signals to its process
  group, or closing the standard streams.
- The worker ends when its socket or its lifeline does, and its environments' children with it.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import gc
import logging
import multiprocessing.spawn
import os
import pickle
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from openenv_async.engine.executors.offspring import MARK_VARIABLE, end_marked
from openenv_async.engine.executors.pipe import HEADER_SIZE, Pipe, PipeCodec, body_size
from openenv_async.engine.executors.recipe import WorkerRecipe
from openenv_async.engine.executors.shelter import (
    after_call,
    guard_streams,
    guard_tasks,
    ignore_signals,
    restore_descriptors,
    run_forever,
    watch_forks,
)

if TYPE_CHECKING:
    from openenv_async.engine.executors.tasks import TaskExecutor
    from openenv_async.engine.executors.threads import MainThreadExecutor, ThreadExecutor
    from openenv_async.protocol.frames import Frame
    from openenv_async.spec import EnvironmentSpec

__all__ = ["worker_main"]

log = logging.getLogger("openenv_async.worker")

_BATCHES: int = 8
"""Batches of rows with nothing between them after which a thread reads the next ones itself."""
_LOOK: float = 0.05
"""Seconds for which calls of a class that does not ask for threads wait for a single one."""


def worker_main(channel_fd: int, lifeline_fd: int) -> None:
    """Serve sessions over a socket until it closes.

    Args:
        channel_fd: this end of the socket pair; its first message is the pickled recipe.
        lifeline_fd: a socket that reaches its end when the server process is gone.
    """
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    channel = socket.socket(fileno=channel_fd)
    lifeline = socket.socket(fileno=lifeline_fd)
    # The process may be ending already when the thread would have noticed.
    atexit.register(_end_with_server, lifeline)
    threading.Thread(target=_die_with, args=(lifeline,), name="lifeline", daemon=True).start()
    preparation, pickled = pickle.loads(_first_message(channel))
    multiprocessing.spawn.prepare(preparation)
    recipe: WorkerRecipe = pickle.loads(pickled)

    from openenv_async.spec import EnvironmentSpec
    from openenv_async.telemetry.spans import enable_from_environ

    spec = EnvironmentSpec(recipe.env, *recipe.types, params=recipe.params, name=recipe.name)
    enable_from_environ()
    spec.prepare(recipe.sessions)
    watch_forks()
    if recipe.shared:
        guard_streams()
        ignore_signals()
    else:
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # it is a file
    if not spec.contract.is_async and not (recipe.shared and _is_thread_safe(spec)):
        _serve_on_main_thread(spec, recipe, channel)
    else:
        run_forever(lambda: _serve(spec, recipe, channel, _executor_of(spec, recipe)))


def _first_message(channel: socket.socket) -> bytes:
    def exactly(size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = channel.recv(size - len(data))
            if not part:
                raise SystemExit(0)  # the server is gone already
            data += part
        return data

    channel.setblocking(True)
    return exactly(body_size(exactly(HEADER_SIZE)) or 0)


def _die_with(lifeline: socket.socket) -> None:
    """Wait for the server's end, then end too, whatever the environment is doing."""
    with contextlib.suppress(OSError):
        lifeline.recv(1)
    _end_all()


def _end_with_server(lifeline: socket.socket) -> None:
    with contextlib.suppress(OSError):
        if not lifeline.recv(1, socket.MSG_DONTWAIT):
            _end_all()


def _end_all() -> NoReturn:
    """End what the environments started, and this process."""
    mark = os.environ.get(MARK_VARIABLE)
    if mark is not None:
        end_marked({mark})
    if os.getpgid(0) == os.getpid():  # what they started here, this process included
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


def _is_thread_safe(spec: EnvironmentSpec) -> bool:
    return bool(getattr(spec.cls, "thread_safe", True))


def _executor_of(
    spec: EnvironmentSpec, recipe: WorkerRecipe
) -> Callable[[asyncio.AbstractEventLoop], TaskExecutor | ThreadExecutor]:
    """Return what runs the environments beside the engine's loop, or on it."""
    from openenv_async.engine.executors.tasks import TaskExecutor, call_of_task
    from openenv_async.engine.executors.threads import ThreadExecutor

    def make(loop: asyncio.AbstractEventLoop) -> TaskExecutor | ThreadExecutor:
        if spec.contract.is_async:
            guard_tasks(loop, call_of_task)
            return TaskExecutor(loop)
        limit = recipe.options.max_threads or recipe.options.max_sessions
        # A class that promises short calls, or asks for a process, gets more than one thread only
        # while calls take long after all.
        look = None if spec.contract.isolation == "thread" else _LOOK
        return ThreadExecutor(loop, limit, spec.cls, look, after_call)

    return make


def _serve_on_main_thread(
    spec: EnvironmentSpec, recipe: WorkerRecipe, channel: socket.socket
) -> None:
    """Run the engine's loop on another thread, and the environment's calls on this one."""
    from openenv_async.engine.executors.threads import MainThreadExecutor

    made: list[MainThreadExecutor] = []
    ready = threading.Event()

    def make(loop: asyncio.AbstractEventLoop) -> MainThreadExecutor:
        made.append(MainThreadExecutor(loop, spec.cls, after_call))
        ready.set()
        return made[0]

    def serve() -> None:
        try:
            run_forever(lambda: _serve(spec, recipe, channel, make))
        finally:
            ready.set()

    def interrupt(number: int, frame: Any) -> None:
        if made and made[0].calling:
            raise KeyboardInterrupt

    if not recipe.shared:
        signal.signal(signal.SIGINT, interrupt)
    thread = threading.Thread(target=serve, name="openenv-engine", daemon=True)
    thread.start()
    ready.wait()
    if made:
        made[0].work()
    thread.join()


async def _serve(
    spec: EnvironmentSpec,
    recipe: WorkerRecipe,
    channel: socket.socket,
    make_executor: Callable[[asyncio.AbstractEventLoop], Any],
) -> None:
    from openenv_async.engine.connection import ServerConnection
    from openenv_async.engine.engine import Engine
    from openenv_async.engine.executors.threads import ThreadExecutor
    from openenv_async.engine.requests import error_frame
    from openenv_async.errors import InvalidObservation, SessionClosed

    loop = asyncio.get_running_loop()
    executor = make_executor(loop)
    engine = Engine(spec, recipe.options, make_executor=lambda _: executor)
    ended: asyncio.Future[None] = loop.create_future()

    def flush() -> None:
        for message in connection.take():
            pipe.send(message)
        if can_lend and executor.batches >= _BATCHES and not pipe.paused:
            sessions = engine.sessions.values()
            if all(session.current is None for session in sessions):
                executor.lend(connection, pipe.lend, pipe.send)

    def receive(message: bytes) -> None:
        after_call()
        connection.receive(message)
        flush()

    def noted(note: bytes) -> None:
        match msgspec.msgpack.decode(note):
            case ["beat"]:
                executor.beat(alive)
            case ["drain", reason]:
                engine.telling.draining = reason
            case ["playing"]:
                pipe.note(msgspec.msgpack.encode(["playing", engine.count_playing()]))
            case ["drop", name]:
                session = engine.sessions.get(name)
                if session is None:
                    return
                gone = SessionClosed("its call did not stop at its deadline and was abandoned")
                if session.current is None:
                    session.shut(gone)
                else:
                    session.executor.abandon(session)
                    session.finish(None, gone)

    def unsendable(frame: Frame, exc: Exception) -> Frame:
        error = InvalidObservation(f"{type(frame).__name__} of {spec.name} cannot be sent: {exc}")
        channel, seq = getattr(frame, "channel", 0), getattr(frame, "seq", 0)
        return error_frame(channel, seq, error, "msgpack")

    def alive() -> None:
        pipe.note(msgspec.msgpack.encode(executor.stuck))

    def lost() -> None:
        if not ended.done():
            ended.set_result(None)

    def wake() -> None:
        # A thread that has borrowed the messages sends what it answers itself.
        if not (can_lend and executor.is_lent):
            loop.call_soon(flush)

    class Connection(ServerConnection):
        def send(self, frame: Frame, size: int = 0) -> None:
            if on_loop:
                after_call()
            super().send(frame, size)

    on_loop = spec.contract.is_async
    can_lend = isinstance(executor, ThreadExecutor)
    codec = PipeCodec("server", recipe.options.limits.max_message_size, unsendable)
    connection = Connection(engine, codec, wake, lost)
    pipe = Pipe(receive, lost, noted)
    channel.setblocking(False)
    await loop.create_connection(lambda: pipe, sock=channel)
    if recipe.shared:
        restore_descriptors(loop)
    gc.freeze()  # what is imported stays: collections need not walk it
    while not ended.done():
        with contextlib.suppress(asyncio.CancelledError):  # an environment's doing
            await asyncio.wait([ended])
    connection.lost(left=True)
    await engine.aclose("the server is gone")
    await executor.aclose()
