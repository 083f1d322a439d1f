"""Steps that come in a row on one connection, the common case of them in one function.

A step walks from ``Session.submit`` to ``ServerConnection.send`` through eight methods, each of
which has a rule or two. Here are those rules for the step that nothing is remarkable about: its
number is the next one, its session is idle, its replies go to this connection in this format. One
whose executor is called from the loop is run and answered here if its reply is a small observation;
one of another executor is handed to it with its deadline. A step of which one of these is not so
goes the long way, from where the difference shows: there is no rule that only this function has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from openenv_async.engine.deadlines import due_at
from openenv_async.engine.resends import LARGE
from openenv_async.engine.runner import EnvironmentRunner
from openenv_async.protocol.frames import Observation, Step
from openenv_async.protocol.lifecycle import Phase

if TYPE_CHECKING:
    from openenv_async.engine.connection import ServerConnection

__all__ = ["take_steps"]

_LONG: Final = 0.05
"""Seconds from which on the sessions of a slice are active until its end, not its beginning."""


def take_steps(connection: ServerConnection, frames: Sequence[Any], at: int, stop: int) -> int:
    """Take the steps that ``frames[at:stop]`` begins with.

    Args:
        connection: that they came on, while it is receiving; no payload is on its way in pieces.
        frames: of a message.
        at, stop: the part of it.

    Returns:
        The index of the first frame that belongs to no session's steps, or comes after a reply of
        much work.
    """
    engine, codecs, channels = connection.engine, connection.codecs, connection._channels
    ready, large, small_size = connection.ready, connection.large, connection._small_size
    format, running = codecs.format, Phase.RUNNING
    decode, encode = codecs.decode_action, codecs.encode_observation
    is_plain, own_timeout = not engine.times_episodes, engine.own_timeouts[Step]
    began = connection.seen_at
    first = at
    done = size = 0
    try:
        while at < stop:
            step = frames[at]
            if type(step) is not Step:
                break
            session = channels.get(step.channel)
            if session is None:
                break
            at += 1
            log, seq = session.log, step.seq
            if not (
                seq == log.taken + 1
                and session.current is None
                and session.sink is connection
                and is_plain
                and len(step.payload) <= LARGE
            ):
                session.submit(step)
                if connection._much:
                    break
                continue
            log.taken = seq
            session.current = step
            session.codecs = codecs
            executor = session.executor
            if not executor.direct:
                log.acknowledge(step.ack)
                if executor.timed:
                    due = due_at(engine.clock(), own_timeout, step.timeout, session.episode_due)
                    session.due = due
                    if due < session.scheduled:
                        engine.deadlines.watch(session, due)
                executor.start(session, step)
                if connection._much:
                    break
                continue
            runner = session.runner
            reply: Any = None
            try:
                # As ``EnvironmentRunner.handle`` does it, in the common case.
                if runner.phase is running and type(runner) is EnvironmentRunner:
                    try:
                        action = decode(step.payload)
                    except BaseException as exc:
                        reply = runner.refused_action(step, exc, codecs)
                    else:
                        result = runner._step(action)
                        read = runner._known.get(type(result))
                        if read is None:
                            reply = runner._observed(step, result, codecs)
                        else:
                            try:
                                observation, reward, terminated, truncated, info = read(result)
                                payload = encode(observation)
                                extra = None if info is None else codecs.encode_info(info)
                            except BaseException as exc:
                                reply = runner.unread(step, result, exc, codecs)
                            else:
                                runner.steps += 1
                                if terminated or truncated:
                                    runner.end_row()
                                reply = Observation(
                                    step.channel, seq, payload, reward, terminated, truncated, extra
                                )
                else:
                    reply = runner.handle(step, codecs)
            except BaseException as exc:
                reply = runner.raised(step, exc, codecs)
            if (
                type(reply) is not Observation
                or session.interrupted is not None
                or session.dead is not None
            ):
                log.acknowledge(step.ack)
                session.complete(step, reply)
                continue
            session.current = None
            session.active_at = began
            done += 1
            length = len(reply.payload)
            log.follow(seq, step.ack, reply, length, format, step)
            if length > small_size or large:
                connection.send(reply, length)
                if connection._much:
                    break
            else:
                ready.append(reply)
                size += length
    finally:
        engine.stats.steps += done
        connection._ready_size += size
        now = engine.clock()
        if now - began > _LONG:
            for step in frames[first:at]:
                session = channels.get(step.channel)
                if session is not None:
                    session.active_at = now
    return at
