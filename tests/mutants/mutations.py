"""The fixed list of mutations: small changes that the tests of their room must notice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["MUTATIONS", "Mutation"]


@dataclass(frozen=True)
class Mutation:
    """One change of one module.

    Attributes:
        name: what it breaks.
        file: path from the root of the tree.
        before: the text that is replaced; it stands in the file exactly once.
        after: the text in its place.
        first: test files that are run first.
        survives: why no test can notice it; empty where one must.
    """

    name: str
    file: str
    before: str
    after: str
    first: tuple[str, ...] = ()
    survives: str = ""

    def apply(self, source: bytes) -> bytes:
        """The source with the change.

        Raises:
            ValueError: the text does not stand in it exactly once.
        """
        if source.count(self.before.encode()) != 1:
            raise ValueError(
                f"{self.name}: {self.file} has it {source.count(self.before.encode())} times"
            )
        return source.replace(self.before.encode(), self.after.encode())


MUTATIONS: Final[tuple[Mutation, ...]] = (
    Mutation(
        "one session more than there is room for",
        "openenv_async/engine/engine.py",
        "if self.active < self.max_sessions and not self._queue:",
        "if self.active <= self.max_sessions and not self._queue:",
    ),
    Mutation(
        "a newcomer overtakes those who wait",
        "openenv_async/engine/engine.py",
        "if self.active < self.max_sessions and not self._queue:",
        "if self.active < self.max_sessions:",
        survives=(
            "waiting sessions are admitted in the turn in which capacity comes free: none"
            " waits while there is any"
        ),
    ),
    Mutation(
        "one more may wait than is allowed",
        "openenv_async/engine/engine.py",
        "if len(self._queue) >= self.options.max_waiting:",
        "if len(self._queue) > self.options.max_waiting:",
    ),
    Mutation(
        "free capacity is given to nobody",
        "openenv_async/engine/engine.py",
        "                self._admit_waiting()",
        "                pass",
    ),
    Mutation(
        "a session of another secret is found",
        "openenv_async/engine/engine.py",
        "            is_secret = hmac.compare_digest(session.secret, request.secret)",
        "            is_secret = True",
        first=("tests/engine/test_isolation.py",),
    ),
    Mutation(
        "a session of another caller is found",
        "openenv_async/engine/engine.py",
        "            if not (is_secret and caller.may_see(session)):",
        "            if not is_secret:",
        first=("tests/server/test_callers.py",),
    ),
    Mutation(
        "a client that left is waited for",
        "openenv_async/engine/engine.py",
        "if ttl is not None and not left:",
        "if ttl is not None:",
    ),
    Mutation(
        "a closed session stays known",
        "openenv_async/engine/engine.py",
        "        if self.sessions.pop(session.id, None) is not None:",
        "        if self.sessions.get(session.id) is not None:",
    ),
    Mutation(
        "the sessions are not told that the server stops",
        "openenv_async/engine/engine.py",
        "        self.shut_all()\n        if self.sessions and not self._hurried:",
        "        if self.sessions and not self._hurried:",
        first=("tests/engine/test_races.py",),
    ),
    Mutation(
        "a blocked loop postpones a deadline for ever",
        "openenv_async/engine/deadlines.py",
        "if now - due > LATE and not times.is_postponed:",
        "if now - due > LATE:",
    ),
    Mutation(
        "a blocked loop costs the reply that is there",
        "openenv_async/engine/deadlines.py",
        "if now - due > LATE and not times.is_postponed:",
        "if now - due > LATE and times.is_postponed:",
    ),
    Mutation(
        "a running session is closed as idle",
        "openenv_async/engine/deadlines.py",
        ("        if now < due:\n            look"),
        ("        if now < idle_at:\n            look"),
    ),
    Mutation(
        "a waiting session is refused too late",
        "openenv_async/engine/deadlines.py",
        ("        if now >= due:\n            return Action.REFUSE"),
        ("        if now > due:\n            return Action.REFUSE"),
    ),
    Mutation(
        "an abandoned session keeps its environment",
        "openenv_async/engine/session.py",
        "        self.executor.abandon(self)",
        "        pass",
    ),
    Mutation(
        "any request may be repeated as any other",
        "openenv_async/engine/resends.py",
        "return any(each in forms for each in",
        "return not any(each in forms for each in",
    ),
    Mutation(
        "one session cancels another",
        "openenv_async/engine/executors/tasks.py",
        "by is not call and call.dead is None",
        "by is call and call.dead is None",
        first=("tests/engine/executors/test_worker.py",),
    ),
    Mutation(
        "an interrupted call is not cancelled",
        "openenv_async/engine/executors/tasks.py",
        ("        slot.task.cancel()\n        return True"),
        ("        pass\n        return True"),
        first=("tests/engine/test_races.py",),
    ),
    Mutation(
        "what is left is not cancelled at the end",
        "openenv_async/engine/executors/tasks.py",
        ("            task.cancel()\n        if tasks:"),
        ("            pass\n        if tasks:"),
        first=("tests/engine/test_races.py",),
    ),
    Mutation(
        "a task that ends does not end its session",
        "openenv_async/engine/executors/tasks.py",
        "            call.die(EnvironmentDied(",
        "            (EnvironmentDied(",
        first=("tests/engine/test_raised.py",),
    ),
    Mutation(
        "a cancelled call is not told to the server",
        "openenv_async/client/channel.py",
        "            self.connection.outbox.send(Cancel(self.number, seq))",
        "            pass",
    ),
    Mutation(
        "a late answer is for the wrong caller",
        "openenv_async/client/channel.py",
        "        if future is None or self.waited != seq:",
        "        if future is None and self.waited != seq:",
    ),
    Mutation(
        "a blocked loop counts as a late server",
        "openenv_async/client/channel.py",
        "        if now - self.due > 1.0:",
        "        if now - self.due > 1e9:",
    ),
    Mutation(
        "a number that was never sent is not given back",
        "openenv_async/client/channel.py",
        "            self.seq -= 1",
        "            pass",
    ),
    Mutation(
        "partial observations come twice",
        "openenv_async/client/channel.py",
        "if partial.index == self._expected:",
        "if partial.index <= self._expected:",
    ),
    Mutation(
        "credit is given back late",
        "openenv_async/client/channel.py",
        "if self._used * 2 >= self._credit:",
        "if self._used >= self._credit:",
    ),
    Mutation(
        "leaving a stream does not cancel its step",
        "openenv_async/client/channel.py",
        "            self._channel.cancel(self._seq)",
        "            pass",
    ),
    Mutation(
        "a late reply is not acknowledged",
        "openenv_async/client/inbox.py",
        "                    channel.acked = seq",
        "                    pass",
    ),
    Mutation(
        "a reply wakes a cancelled caller",
        "openenv_async/client/inbox.py",
        "                elif not future.done():",
        "                elif future is not None:",
    ),
    Mutation(
        "pieces of a lost transport are kept",
        "openenv_async/client/inbox.py",
        "        self._assembler.clear()",
        "        pass",
    ),
    Mutation(
        "a message leaves too early",
        "openenv_async/client/outbox.py",
        ("        if not self.answered:\n"),
        ("        if self.answered <= 1:\n"),
    ),
    Mutation(
        "what is queued outlives its transport",
        "openenv_async/client/outbox.py",
        "        self.queue.clear()",
        "        pass",
    ),
    Mutation(
        "a congested transport is flooded",
        "openenv_async/client/outbox.py",
        ("        if self.blocked is not None:\n            return\n        if not"),
        ("        if self.blocked is None and self._large:\n            return\n        if not"),
    ),
    Mutation(
        "the first caller's cancellation ends the dial of all",
        "openenv_async/client/pooling.py",
        "connection = await asyncio.shield(entry.dialing)",
        "connection = await entry.dialing",
    ),
    Mutation(
        "a dial that nobody wants goes on",
        "openenv_async/client/pooling.py",
        "                entry.dialing.cancel()",
        "                pass",
    ),
    Mutation(
        "a connection is closed under its other users",
        "openenv_async/client/pooling.py",
        ("        entry.users -= 1\n        if entry.users == 0:\n            del self._in_use"),
        ("        entry.users -= 1\n        if entry.users >= 0:\n            del self._in_use"),
    ),
    Mutation(
        "a broken connection is lent again",
        "openenv_async/client/pooling.py",
        "if connection.error is None:",
        "if connection.error is not connection:",
    ),
    Mutation(
        "a connection with sessions does not come back",
        "openenv_async/client/connection.py",
        "if ttl is not None and waiting:",
        "if ttl is not None and not waiting:",
    ),
    Mutation(
        "a session of a restarted server is resumed",
        "openenv_async/client/connection.py",
        '                channel.fail(self._gone("the server was restarted", channel))',
        "                pass",
    ),
    Mutation(
        "closing leaves the heartbeat",
        "openenv_async/client/connection.py",
        "            self._heartbeat.cancel()",
        "            pass",
    ),
    Mutation(
        "nothing is sent again after a reconnect",
        "openenv_async/client/connection.py",
        "                self.outbox.send(frame)",
        "                pass",
    ),
    Mutation(
        "a worker that does not answer is left behind",
        "openenv_async/client/launch.py",
        ("        await worker.aclose()\n        raise"),
        ("        pass\n        raise"),
        first=("tests/client/test_races.py",),
    ),
    Mutation(
        "the opening is not given back when it fails",
        "openenv_async/client/env.py",
        ("            await self._give_back(connection)\n            raise"),
        ("            pass\n            raise"),
    ),
    Mutation(
        "others are cancelled with the caller who opens",
        "openenv_async/client/env.py",
        "                return await asyncio.shield(opening)",
        "                return await opening",
    ),
    Mutation(
        "giving back ends with its caller",
        "openenv_async/pool/leases.py",
        'await asyncio.shield(self._pool.spawn(self._finish(lease), "openenv-release"))',
        "await self._finish(lease)",
    ),
    Mutation(
        "a session that was opened in vain stays",
        "openenv_async/pool/leases.py",
        "        channel.close_soon()",
        "        pass",
    ),
    Mutation(
        "the connection of what was opened in vain stays",
        "openenv_async/pool/leases.py",
        '        self._pool.spawn(self._give_back(channel.connection), "openenv-release")',
        "        pass",
    ),
    Mutation(
        "a worker is tried once too often",
        "openenv_async/pool/leases.py",
        "                again = attempts < _ATTEMPTS",
        "                again = attempts <= _ATTEMPTS",
    ),
    Mutation(
        "an abandoned opening is not cancelled",
        "openenv_async/pool/leases.py",
        ("            opening.cancel()\n"),
        ("            pass\n"),
    ),
    Mutation(
        "a slot is not given back when opening fails",
        "openenv_async/pool/leases.py",
        ("                self._pool.release(lease)\n                if not again:"),
        ("                pass\n                if not again:"),
    ),
    Mutation(
        "a worker that ends is not closed",
        "openenv_async/pool/workers.py",
        "            await live.worker.aclose()",
        "            pass",
    ),
    Mutation(
        "a worker whose connection failed is left behind",
        "openenv_async/pool/workers.py",
        ("            await worker.aclose()\n            raise"),
        ("            pass\n            raise"),
    ),
    Mutation(
        "nobody is told that there is nothing to wait for",
        "openenv_async/pool/workers.py",
        "            self._none_left(error)",
        "            pass",
    ),
    Mutation(
        "what starts goes on after the end",
        "openenv_async/pool/workers.py",
        "            task.cancel()",
        "            pass",
    ),
    Mutation(
        "failures are not counted",
        "openenv_async/pool/scheduler.py",
        "        self._failures[source] += 1",
        "        pass",
    ),
    Mutation(
        "a lease that was granted in vain is kept",
        "openenv_async/pool/pool.py",
        "                self.release(waiter.result())",
        "                pass",
    ),
    Mutation(
        "a cancelled waiter keeps its ticket",
        "openenv_async/pool/pool.py",
        "                self._scheduler.withdraw(ticket)",
        "                pass",
    ),
    Mutation(
        "the providers are not closed",
        "openenv_async/pool/pool.py",
        "            await provider.aclose()",
        "            pass",
    ),
    Mutation(
        "closing ends with its caller",
        "openenv_async/pool/pool.py",
        "await wait_uncancelled(self._closing)",
        "await self._closing",
    ),
    Mutation(
        "opening ends with its caller",
        "openenv_async/pool/pool.py",
        "await asyncio.shield(opening)",
        "await opening",
    ),
    Mutation(
        "a new request is not taken",
        "openenv_async/protocol/replies.py",
        ("            self.taken = seq\n            return Order.NEW\n        if self.taken < seq"),
        ("            pass\n            return Order.NEW\n        if self.taken < seq"),
    ),
    Mutation(
        "an acknowledgement keeps the last reply",
        "openenv_async/protocol/replies.py",
        "if self._seq <= ack:",
        "if self._seq < ack:",
    ),
    Mutation(
        "one acknowledgement is taken for many",
        "openenv_async/protocol/replies.py",
        "one_more = ack == self.acked + 1 and ack in earlier",
        "one_more = ack == self.acked + 1 or ack in earlier",
    ),
    Mutation(
        "the budget is passed by the size of a reply",
        "openenv_async/protocol/replies.py",
        "while earlier and (self.size > self.budget or",
        "while earlier and (self.size > self.budget and",
    ),
    Mutation(
        "an evicted reply stays counted for all",
        "openenv_async/protocol/replies.py",
        "            retained.size -= size",
        "            pass",
    ),
    Mutation(
        "the newest replies are evicted first",
        "openenv_async/protocol/replies.py",
        "earlier.popitem(last=False)",
        "earlier.popitem(last=True)",
    ),
    Mutation(
        "an eviction takes an acknowledgement back",
        "openenv_async/protocol/replies.py",
        "self.acked = max(self.acked, seq)",
        "self.acked = seq",
    ),
    Mutation(
        "a number far ahead counts as passed over",
        "openenv_async/protocol/replies.py",
        "if self.taken < seq <= self.passed + 1:",
        "if self.taken < seq <= self.passed + 2:",
    ),
    Mutation(
        "a refused payload is not remembered",
        "openenv_async/protocol/chunks.py",
        "            refused.refused = True",
        "            pass",
    ),
    Mutation(
        "the pieces of all channels are unbounded",
        "openenv_async/protocol/chunks.py",
        "if size > self._limit or self._size + cost > self._total:",
        "if size > self._limit and self._size + cost > self._total:",
    ),
    Mutation(
        "what is cut overtakes the frames of its channel",
        "openenv_async/protocol/chunks.py",
        "return size > self._chunk_size or channel in self.channels",
        "return size > self._chunk_size and channel in self.channels",
    ),
    Mutation(
        "what was sent of a payload is sent again",
        "openenv_async/protocol/chunks.py",
        "            sending.at = end",
        "            pass",
    ),
    Mutation(
        "a message may be one byte too long",
        "openenv_async/protocol/codec.py",
        (
            "        if len(message) > self._max_size:\n"
            "            raise too_large(len(message), self._max_size)\n"
            "        if isinstance(message, str):"
        ),
        (
            "        if len(message) > self._max_size + 1:\n"
            "            raise too_large(len(message), self._max_size)\n"
            "        if isinstance(message, str):"
        ),
    ),
    Mutation(
        "too many bad frames are read",
        "openenv_async/protocol/codec.py",
        "            if bad > max_bad_frames:",
        "            if bad > max_bad_frames + 1:",
    ),
    Mutation(
        "an empty slice of a batch",
        "openenv_async/protocol/codec.py",
        "        if size and size + cost > limit:",
        "        if size + cost > limit:",
    ),
    Mutation(
        "a finished episode is not done",
        "openenv_async/protocol/upstream.py",
        ('        "done": frame.terminated or frame.truncated,\n        "terminated"'),
        ('        "done": frame.terminated and frame.truncated,\n        "terminated"'),
    ),
    Mutation(
        "the greatest seed is refused",
        "openenv_async/protocol/upstream.py",
        "not 0 <= seed <= _MAX_SEED",
        "not 0 <= seed < _MAX_SEED",
    ),
    Mutation(
        "the environment's own facts are overwritten",
        "openenv_async/protocol/upstream.py",
        'if key not in facts or bytes(raw) != b"null"',
        'if key not in facts and bytes(raw) != b"null"',
    ),
    Mutation(
        "a frame of just 126 bytes is read wrongly",
        "openenv_async/protocol/websocket_frames.py",
        "            if length >= _SHORT:",
        "            if length > _SHORT:",
    ),
    Mutation(
        "a batch is one too large",
        "openenv_async/rollouts/batching.py",
        "if left <= 0 or len(self._waiting) >= self._max_batch:",
        "if left <= 0 or len(self._waiting) > self._max_batch:",
    ),
    Mutation(
        "decisions are not counted",
        "openenv_async/rollouts/batching.py",
        "        self.decisions += len(batch)",
        "        pass",
    ),
    Mutation(
        "the task of a cancelled episode counts as finished",
        "openenv_async/rollouts/schedule.py",
        "_NO_RESULT: Final = (OutcomeStatus.CANCELLED, OutcomeStatus.INFRA_ERROR)",
        "_NO_RESULT: Final = (OutcomeStatus.INFRA_ERROR,)",
    ),
    Mutation(
        "a retired task is given again",
        "openenv_async/rollouts/tasks.py",
        "                if self._ids[order[each]] not in self._retired:\n",
        "                if True:\n",
    ),
    Mutation(
        "a draw is left out after a resume",
        "openenv_async/rollouts/tasks.py",
        "            self._again.extend(unfinished)\n            self._retired, self._streaks",
        "            self._retired, self._streaks",
    ),
    Mutation(
        "an answer is shown to the policy",
        "openenv_async/rollouts/rows.py",
        "            if name in self._private:\n",
        "            if False:\n",
    ),
    Mutation(
        "a version too many may pass",
        "openenv_async/rollouts/versions.py",
        "return last // batch <= self._max_staleness",
        "return last // batch <= self._max_staleness + 1",
    ),
    Mutation(
        "an episode that is dropped stays under way",
        "openenv_async/rollouts/versions.py",
        ("        self._outstanding -= 1\n        self._wake()\n\n    def _notice"),
        ("        pass\n        self._wake()\n\n    def _notice"),
    ),
    Mutation(
        "an episode waits for the session of the task that it was admitted for",
        "openenv_async/rollouts/versions.py",
        "            if not ready or not self._granted:\n",
        "            if True:\n",
    ),
    Mutation(
        "a group begins however late it would end",
        "openenv_async/rollouts/versions.py",
        "return since <= self._latest or since > _OVERDUE * self.interval",
        "return True",
    ),
    Mutation(
        "a row that is sent again runs again",
        "openenv_async/engine/columns.py",
        "if log.taken + 1 == seq and session.current is None",
        "if log.taken + 1 >= seq and session.current is None",
        ("tests/engine/test_columns.py",),
    ),
    Mutation(
        "replies of many rows are kept whole without end",
        "openenv_async/engine/columns.py",
        "while len(self._whole) > _MAX_WHOLE:",
        "while len(self._whole) > 10**6:",
        ("tests/engine/test_columns.py",),
    ),
    Mutation(
        "a session that moved away is stepped where it was",
        "openenv_async/engine/columns.py",
        "            self._work.stale = True\n",
        "            self._work.stale = False\n",
        ("tests/engine/test_columns.py",),
    ),
    Mutation(
        "a reward of 0 in a column is none",
        "openenv_async/engine/rows.py",
        "        if reward is None:\n",
        "        if not reward:\n",
        ("tests/engine/test_columns.py",),
    ),
    Mutation(
        "a row keeps replies that were acknowledged",
        "openenv_async/protocol/replies.py",
        "                log._forget(log._earlier, seq - 1)\n                log._earlier = None\n",
        "                pass\n",
        ("tests/protocol/test_replies.py",),
    ),
    Mutation(
        "the youngest episode is handed over first",
        "openenv_async/rollouts/collection.py",
        "    return outcome.index\n",
        "    return -outcome.index\n",
    ),
    Mutation(
        "a new version is not noticed",
        "openenv_async/rollouts/versions.py",
        "        if version == self._known:\n            return False\n",
        "        if version >= self._known:\n            return False\n",
    ),
    Mutation(
        "an outcome is not counted",
        "openenv_async/rollouts/collection.py",
        "        self._summary.add(outcome)",
        "        pass",
    ),
    Mutation(
        "an index is given twice",
        "openenv_async/rollouts/schedule.py",
        "        self._next = index + 1",
        "        self._next = index",
    ),
    Mutation(
        "the deviation is of all and not of all but one",
        "openenv_async/rollouts/groups.py",
        "math.sqrt(squares / (len(there) - 1))",
        "math.sqrt(squares / len(there))",
    ),
    Mutation(
        "a return that is not finite counts",
        "openenv_async/rollouts/groups.py",
        "[value is not None and math.isfinite(value) for value in self.returns]",
        "[value is not None or math.isfinite(value) for value in self.returns]",
    ),
    Mutation(
        "what differs counts as the same",
        "openenv_async/rollouts/replaying.py",
        "if left.shape != right.shape or left.dtype != right.dtype:",
        "if left.shape != right.shape and left.dtype != right.dtype:",
    ),
    Mutation(
        "an array is not copied",
        "openenv_async/rollouts/record.py",
        "return value if _is_fixed_array(np, value) else value.copy()",
        "return value",
    ),
    Mutation(
        "an action is recorded as it is changed later",
        "openenv_async/rollouts/run.py",
        "sent = self._sent = snapshot(action)",
        "sent = self._sent = action",
    ),
    Mutation(
        "an episode that is cancelled is lost",
        "openenv_async/rollouts/streaming.py",
        "outcome = await asyncio.shield(self._coming)",
        "outcome = await self._coming",
    ),
    Mutation(
        "a key is good after its session",
        "openenv_async/gateway/gateway.py",
        "        self._by_digest.pop(session.digest, None)",
        "        pass",
        first=("tests/gateway/test_gateway.py",),
    ),
    Mutation(
        "the end of an answer leaves before the journal has it",
        "openenv_async/gateway/gateway.py",
        (
            "                await self._journal.answered(record, packed)\n"
            "        except JournalFailed"
        ),
        ("                pass\n        except JournalFailed"),
        first=("tests/gateway/test_gateway.py",),
    ),
    Mutation(
        "a sample that the journal did not take is sampled again",
        "openenv_async/gateway/gateway.py",
        "                session.hold(generation, sampled)",
        "                pass",
        first=("tests/gateway/test_gateway.py",),
    ),
    Mutation(
        "a sample that was failed is answered all the same",
        "openenv_async/gateway/gateway.py",
        ("            if generation.is_done:\n                return  # it"),
        ("            if generation.is_settling:\n                return  # it"),
        first=("tests/gateway/test_gateway.py",),
    ),
    Mutation(
        "an answer on its way to the journal is cancelled",
        "openenv_async/gateway/sessions.py",
        "if self.task is not None and not self.is_settling:",
        "if self.task is not None:",
        first=("tests/gateway/test_gateway.py",),
    ),
    Mutation(
        "a spent budget allows one more call",
        "openenv_async/gateway/sessions.py",
        "spent.calls >= budget.calls",
        "spent.calls > budget.calls",
        first=("tests/gateway/test_sessions.py",),
    ),
    Mutation(
        "a budget of tokens counts calls",
        "openenv_async/gateway/sessions.py",
        "spent.tokens >= budget.tokens",
        "spent.calls >= budget.tokens",
        first=("tests/gateway/test_gateway.py",),
    ),
    Mutation(
        "a failed call is paid for",
        "openenv_async/gateway/sessions.py",
        "            self.spent.calls -= 1",
        "            pass",
        first=("tests/gateway/test_engine_faults.py",),
    ),
    Mutation(
        "one request more than may be at once",
        "openenv_async/gateway/sessions.py",
        "if self.requests >= limits.max_concurrent:",
        "if self.requests > limits.max_concurrent:",
        first=("tests/gateway/test_gateway.py",),
    ),
    Mutation(
        "a retry is one of any thread",
        "openenv_async/gateway/retries.py",
        " and each.thread == call.thread]",
        "]",
        first=("tests/gateway/test_retries.py",),
    ),
    Mutation(
        "a sample that may be a retry is not recorded so",
        "openenv_async/gateway/retries.py",
        "return New(had[-1].number if had else None)",
        "return New()",
        first=("tests/gateway/test_retries.py",),
    ),
    Mutation(
        "a call is joined to one that it is the beginning of",
        "openenv_async/gateway/graph.py",
        "if fitting or prompt.startswith(node.whole):",
        "if fitting or node.whole.startswith(prompt):",
        first=("tests/gateway/test_graph.py",),
    ),
    Mutation(
        "of equal samples any one is continued",
        "openenv_async/gateway/graph.py",
        "key=lambda each: (each.number in told, not each.has_heir())",
        "key=lambda each: not each.has_heir()",
        first=("tests/gateway/test_graph.py",),
    ),
    Mutation(
        "what the agent said is taken for sampled",
        "openenv_async/gateway/rows.py",
        "mask += [0] * len(between)",
        "mask += [1] * len(between)",
        first=("tests/gateway/test_rows.py",),
    ),
    Mutation(
        "a second sample has the reward",
        "openenv_async/gateway/rows.py",
        '= ("main", "continuation")',
        '= ("main", "continuation", "second_sample")',
        first=("tests/gateway/test_rows.py",),
    ),
    Mutation(
        "a session is read before it is closed",
        "openenv_async/gateway/remote.py",
        'await self._ask("POST", f"{place}/close")',
        'await self._ask("GET", place)',
        first=("tests/gateway/test_remote.py",),
    ),
)
