"""Sessions that are vectors of environments, as one vector: the work of ``GymVectorEnv`` for them.

Rules:

- A *shard* is one session: a vector of as many environments as its server says, at one of the
  servers. The rows of all shards follow one another; seeds count on over them.
- Rows begin anew as the server's vectors do. A shard that failed is another matter: its session is
  replaced with its next reset, and all of its rows begin anew.
- A failure is that of a shard's rows: ``failures="raise"`` raises it, ``"mask"`` gives rows as
  ``GymVectorEnv`` has them. The other shards' rows are what they would have been.
- Some vectors step the first rows that are ready. Then a batch has as many rows of each shard, and
  ``infos["env_id"]`` says of which environments; the next actions are for those.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space, create_empty_array

from openenv_async.client.arguments import checked_count, checked_seed, checked_timeout
from openenv_async.client.vector import Answer, ResetRequest, VectorSessions
from openenv_async.errors import (
    CallerError,
    DeadlineExceeded,
    EpisodeNotStarted,
    InvalidAction,
    InvalidObservation,
    InvalidOption,
    OpenEnvError,
    OperationUnsupported,
    SessionBusy,
    SessionClosed,
)
from openenv_async.hosts.spaces import opener, sender
from openenv_async.integrations.gymnasium.columns import array_of, outside
from openenv_async.integrations.gymnasium.settings import Translation

__all__ = [
    "HostedVectors",
    "infos_by_row",
    "mode_of",
    "refuse_other_vectors",
    "refuse_settings",
    "shards_needed",
]

_MODES: Final = {
    "next_step": AutoresetMode.NEXT_STEP,
    "same_step": AutoresetMode.SAME_STEP,
    "disabled": AutoresetMode.DISABLED,
}
_ARRAYS: Final = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
_TURN: Final = 0.002
"""Seconds that ``recv`` waits for one server before it looks at the next."""

Batch = tuple[Any, Any, Any, Any, dict[str, Any]]


def mode_of(vector: Mapping[str, Any], wanted: AutoresetMode | None, label: str) -> AutoresetMode:
    """Return when the rows of a server's vectors begin anew.

    Args:
        vector: what the server's schema says of them.
        wanted: what the caller wants; ``None`` for what there is.
        label: of the server.

    Raises:
        OperationUnsupported: the caller wants something else.
    """
    there = _MODES.get(str(vector.get("autoreset_mode")))
    if there is None:
        raise OperationUnsupported(
            f"{label} says {vector.get('autoreset_mode')!r} for when its rows begin anew: update"
            " openenv-async"
        )
    if wanted is not None and wanted is not there:
        raise OperationUnsupported(
            f"{label} serves vectors whose rows begin anew by {there.value}, not {wanted.value} as"
            " wanted: serve them with --param autoreset_mode="
            f"{next(word for word, mode in _MODES.items() if mode is wanted)} (and --param"
            " vectorization_mode=sync where the vector's class takes no mode, as CartPole's), or"
            f" take {there.value} (GymVectorEnv without autoreset_mode=)"
        )
    return there


def refuse_other_vectors(
    vector: Mapping[str, Any], schemas: Sequence[Mapping[str, Any]], label: str
) -> None:
    """Refuse servers whose vectors are not those of the first.

    Args:
        vector: what the first server's schema says of them.
        schemas: of all servers.
        label: of them together.

    Raises:
        InvalidOption: one serves something else.
    """
    for schema in schemas:
        other = schema.get("vector") or {}
        for part in ("num_envs", "batch_size", "autoreset_mode", "action", "observation"):
            if other.get(part) != vector.get(part):
                raise InvalidOption(
                    f"the servers of one vector must serve alike ones: {part} of one of {label} is"
                    f" {vector.get(part)!r:.120}, of another {other.get(part)!r:.120}"
                )


def shards_needed(vector: Mapping[str, Any], num_envs: int | None, servers: int, label: str) -> int:
    """Return how many sessions make up a vector of ``num_envs`` rows.

    Args:
        vector: what the server's schema says of its vectors.
        num_envs: rows; ``None`` for one session of each server.
        servers: of which sessions are opened, one after the other.
        label: of the server.

    Raises:
        InvalidOption: they cannot be had.
    """
    each = int(vector["num_envs"])
    if num_envs is None:
        return servers
    if num_envs < 1 or num_envs % each:
        raise InvalidOption(
            f"a session of {label} is a vector of {each} environments: num_envs must be a multiple"
            f" of that, got {num_envs}; leave it out for one session of each server",
            option="num_envs",
        )
    return num_envs // each


@dataclass
class _Shard:
    """One session.

    Attributes:
        group: which of the groups of sessions it is in.
        slot: of the group.
        start: its first environment.
        seen: the batch that it showed last, as memory of its message.
        ids: which environments those are; ``None`` for all of them in order.
        failed: whether it has no episode since it failed.
        begun: whether it was ever reset.
        due: whether a step of it is under way.
    """

    group: int
    slot: int
    start: int
    seen: Any = None
    ids: Any = None
    failed: bool = False
    begun: bool = False
    due: bool = False


@dataclass
class _Taken:
    """The rows of one shard's answer.

    Attributes:
        rewards: float64 [rows].
        terminated, truncated: bool [rows].
        infos: as Gymnasium has them.
        error: why there are no rows of an environment's.
        again: whether the rows begin anew after a failure.
    """

    rewards: Any
    terminated: Any
    truncated: Any
    infos: dict[str, Any] = field(default_factory=dict)
    error: OpenEnvError | None = None
    again: bool = False


class _Layout:
    """The places of the arrays in the payloads of one size, learnt from one that was decoded.

    Rows of the same shapes differ in the elements of their arrays only: all bytes between them are
    compared, so that nothing else is taken for such rows.

    Args:
        payload: what was decoded.
        rows: what it was.
    """

    names = ("observations", "rewards", "terminated", "truncated")

    def __init__(self, payload: Any, rows: Mapping[str, Any]) -> None:
        self._size = len(payload)
        base = np.frombuffer(payload, np.uint8).__array_interface__["data"][0]
        places = {
            name: (rows[name].__array_interface__["data"][0] - base, rows[name])
            for name in self.names
        }
        at, self._between = 0, list[tuple[int, int, bytes]]()
        for start, array in sorted(places.values(), key=lambda each: each[0]):
            self._between.append((at, start, bytes(payload[at:start])))
            at = start + array.nbytes
        self._between.append((at, self._size, bytes(payload[at:])))
        self._arrays = [(start, a.dtype, a.size, a.shape) for start, a in places.values()]

    @classmethod
    def of(cls, payload: Any, rows: Mapping[str, Any]) -> _Layout | None:
        """Return the layout of a payload whose parts are arrays of numbers and nothing else."""
        arrays = [rows.get(name) for name in cls.names]
        whole = rows.keys() == {*cls.names} and all(isinstance(a, np.ndarray) for a in arrays)
        if not whole or any(a.dtype.kind not in "biufc" or not a.size for a in arrays):  # type: ignore[union-attr]  # arrays
            return None
        if rows["terminated"].dtype != np.bool_ or rows["truncated"].dtype != np.bool_:
            return None
        return None if rows["observations"].dtype.kind == "b" else cls(payload, rows)

    def read(self, payload: Any) -> tuple[Any, Any, Any, Any] | None:
        """The four arrays, the observations as a view; ``None`` for anything but such rows."""
        if len(payload) != self._size:
            return None
        for start, stop, octets in self._between:
            if payload[start:stop] != octets:
                return None
        (at, dtype, size, shape), rewards, terminated, truncated = self._arrays
        return (
            np.frombuffer(payload, dtype, size, at).reshape(shape),
            np.array(np.frombuffer(payload, rewards[1], rewards[2], rewards[0]), np.float64),
            np.frombuffer(payload, np.uint8, terminated[2], terminated[0]) != 0,
            np.frombuffer(payload, np.uint8, truncated[2], truncated[0]) != 0,
        )


class HostedVectors:
    """The vector of several sessions that are vectors.

    Args:
        clients: one for each server, not used otherwise; or one for all.
        schema: the server's schemas; those of the other servers are taken to be the same.
        shards: sessions, at one server after the other.
        mode: when rows begin anew.
        translation: between Gymnasium's values and those of one row.
        failures: ``"raise"`` or ``"mask"``.
        copy: whether what is returned is the caller's own.
        missing_reward: stands for a reward that was not given.
        label: of what is served.

    Attributes:
        num_envs: of all shards.
        batch_size: rows of a step.
        valid: bool [num_envs], as of ``GymVectorEnv``.
    """

    def __init__(
        self,
        clients: Sequence[Any],
        schema: Mapping[str, Any],
        shards: int,
        *,
        mode: AutoresetMode,
        translation: Translation,
        failures: str,
        copy: bool,
        missing_reward: float,
        label: str,
    ) -> None:
        vector = schema["vector"]
        self.mode = mode
        self.each = int(vector["num_envs"])
        self.rows = int(vector.get("batch_size") or self.each)
        self.num_envs = self.each * shards
        self.batch_size = self.rows * shards
        self.groups = [
            VectorSessions(
                client,
                len(range(number, shards, len(clients))),
                same_step=mode is AutoresetMode.SAME_STEP,
                resume_options=translation.resume_options,
            )
            for number, client in enumerate(clients[:shards])
        ]
        self.shards = [
            _Shard(number % len(clients), number // len(clients), number * self.each)
            for number in range(shards)
        ]
        self._by_slot = {(shard.group, shard.slot): shard for shard in self.shards}
        self._translation = translation
        self._takes_seeds = "seeds" in schema.get("reset", {}).get("properties", {})
        self._failures = failures
        self._copy = copy
        self._missing = missing_reward
        self._label = label
        self.valid = np.ones(self.num_envs, np.bool_)
        self._due = 0
        self._ready: list[tuple[_Shard, Answer]] = []  # came, and was not received
        self._prepare()

    def _prepare(self) -> None:
        """Make what does not travel with a pickled copy."""
        action, seen = self._translation.action.space, self._translation.observation.space
        self.single_action_space, self.single_observation_space = action, seen
        self.action_space = batch_space(action, self.batch_size)
        self.observation_space = batch_space(seen, self.batch_size)
        self._to_wire = sender(batch_space(action, self.rows))
        self._openers: dict[int, Any] = {}
        self._layout: _Layout | None = None
        self._head: bytes | None = None
        self._from_row = opener(seen)
        self._plain = isinstance(seen, _ARRAYS)
        self._all: Any = None if self._copy else create_empty_array(seen, self.batch_size, np.zeros)

    def __getstate__(self) -> dict[str, Any]:
        """The settings: a copy opens sessions of its own."""
        made = ("_to_wire", "_openers", "_layout", "_head", "_from_row", "_all", "_ready")
        return {name: value for name, value in self.__dict__.items() if name not in made}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._due = 0
        self._ready = []
        for shard in self.shards:
            shard.seen = shard.ids = None
            shard.begun = shard.failed = shard.due = False
        self._by_slot = {(shard.group, shard.slot): shard for shard in self.shards}
        self._prepare()

    @property
    def opened(self) -> bool:
        """True if the sessions are open."""
        return all(group.opened for group in self.groups)

    # -- Gymnasium's calls ------------------------------------------------------------------------

    def reset(self, seed: Any, options: Any) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in every environment, or where ``options["reset_mask"]`` says so."""
        seeds = self._seeds_of(seed)
        options = self._translation.checked_options(options)
        mask = None
        if options and "reset_mask" in options:
            mask = np.asarray(options.pop("reset_mask"))
            if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
                raise ValueError(
                    f"reset_mask must be {self.num_envs} booleans of which one is true at least"
                )
        self._drain()
        who = [s for s in self.shards if mask is None or mask[s.start : s.start + self.each].any()]
        for shard in who:
            whole = mask is None or mask[shard.start : shard.start + self.each].all()
            if not whole and (shard.failed or not shard.begun):
                raise EpisodeNotStarted(
                    f"environments {self._named(shard)} have no session to reset some of: let"
                    " reset_mask have all of them"
                )
        requests: dict[int, list[ResetRequest]] = {}
        for group in self.groups:
            group.open()
        for shard in who:
            request = self._reset_of(shard, seed is not None, seeds, options, mask)
            requests.setdefault(shard.group, []).append(request)
        for number, asked in requests.items():
            self.groups[number].reset(asked)
        taken = self._take({n: len(asked) for n, asked in requests.items()})
        self._raise_failed(taken)
        shown = self._shown([shard for shard, _ in taken] if self.rows < self.each else self.shards)
        return shown, self._merged([(shard, each.infos) for shard, each in taken], self.shards)

    def _seeds_of(self, seed: Any) -> Any:
        """The seed of the first environment, or the list of all of them."""
        if not np.ndim(seed):
            return checked_seed(seed)
        if len(seed) != self.num_envs:
            raise ValueError(f"{len(seed)} seeds for {self.num_envs} environments")
        if not self._takes_seeds:
            raise InvalidOption(
                f"{self._label} takes one seed for its vector, not one for each environment",
                option="seed",
            )
        return [checked_seed(each) for each in seed]

    def _reset_of(
        self, shard: _Shard, is_seeded: bool, seeds: Any, options: Any, mask: Any
    ) -> ResetRequest:
        own: dict[str, Any] = dict(options or {})
        start, stop = shard.start, shard.start + self.each
        if mask is not None and not mask[start:stop].all():
            own["reset_mask"] = mask[start:stop]
        given = self._translation.reset_options(
            own or None, resume=bool(own) and not is_seeded and shard.begun and not shard.failed
        )
        seed = None
        if isinstance(seeds, list):
            given["seeds"] = seeds[start:stop]
        elif seeds is not None:
            seed = seeds + start
        wire = self.groups[shard.group].wire
        return ResetRequest(shard.slot, seed, wire.encode_any(given) if given else None)

    def step(self, actions: Any) -> Batch:
        """One action in each row."""
        shard = self.shards[0]
        if len(self.shards) > 1 or self._due or shard.due or shard.failed or not shard.begun:
            self.post(actions)
            return self.collect()
        group, batch = self.groups[0], self._array_of(actions)
        answer = group.step_alone(self._payload(shard, self._to_wire(batch)))
        if answer is None:
            (answer,) = group.take(1)
        return self._results([(shard, self._read(shard, answer))], self.shards)

    def post(self, actions: Any) -> None:
        """Begin a step of all shards; ``collect`` gives the rows."""
        if self._due:
            raise SessionBusy(f"step() while {self._due} rows are under way: recv() them first")
        self._post(self.shards, actions)

    def collect(self) -> Batch:
        """The rows of the step that was begun, in their order."""
        counts: dict[int, int] = {}
        for shard in self.shards:
            counts[shard.group] = counts.get(shard.group, 0) + 1
        return self._results(self._take(counts), self.shards)

    def send(self, actions: Any, env_ids: Sequence[int] | None) -> None:
        """Begin a step of some shards, with one action for each of their rows."""
        who = self.shards if env_ids is None else self._shards_of([int(i) for i in env_ids])
        for shard in who:
            if shard.due:
                raise SessionBusy(
                    f"environments {self._named(shard)} are under way: recv() their rows first"
                )
        self._post(who, actions)
        self._due += len(who)

    def _shards_of(self, ids: list[int]) -> list[_Shard]:
        """The shards whose rows, in order, are the given environments.

        Raises:
            InvalidOption: they are not whole shards.
        """
        found: list[_Shard] = []
        at = 0
        while at < len(ids):
            number = ids[at] // self.each
            shard = self.shards[number] if 0 <= number < len(self.shards) else None
            if shard is None or ids[at : at + self.rows] != self._ids(shard):
                raise InvalidOption(
                    f"environments {ids[at : at + self.rows]!r:.80} are not the rows of one session"
                    f" in their order: send the actions of {self.rows} together, such as those of"
                    " infos['env_id']",
                    option="env_ids",
                )
            found.append(shard)
            at += self.rows
        return found

    def _ids(self, shard: _Shard) -> list[int]:
        ids = range(self.each) if shard.ids is None else shard.ids.tolist()
        return [shard.start + i for i in ids]

    def recv(self, count: int | None, timeout: float | None) -> Batch:
        """The rows of the shards that are ready first; ``count`` of them at least."""
        if count is not None:
            count = checked_count(count, "recv(count=…)", 0, InvalidOption)
        if timeout is not None:
            timeout = checked_timeout(timeout, "recv")
        wanted = self._due if count is None else math.ceil(count / self.rows)
        if wanted > self._due:
            raise SessionBusy(
                f"{count} rows were asked for, and {self._due * self.rows} are under way"
            )
        until = math.inf if timeout is None else time.monotonic() + timeout
        self._look()
        while len(self._ready) < wanted:
            if not self._wait(until):
                raise DeadlineExceeded(
                    f"{self._label} gave fewer than {wanted * self.rows} rows within {timeout:g} s:"
                    " recv() again, also for those that came"
                )
        came, self._ready = self._ready, []
        taken = self._all_read(came)
        self._due -= len(taken)
        who = [shard for shard, _ in taken]
        observations, rewards, terminated, truncated, infos = self._results(taken, who)
        infos["env_id"] = np.array([i for shard in who for i in self._ids(shard)], np.int64)
        return observations, rewards, terminated, truncated, infos

    def _look(self) -> None:
        """Note the answers that have come."""
        for number, group in enumerate(self.groups):
            if group.waiting:
                self._come(number, group.take(0))

    def _wait(self, until: float) -> bool:
        """Note the next answer, of whichever server gives one first; false if it is too late."""
        waiting = [number for number, group in enumerate(self.groups) if group.waiting]
        longest = math.inf if len(waiting) == 1 else _TURN
        while True:
            for number in waiting:
                left = until - time.monotonic()
                if left <= 0:
                    return False
                with contextlib.suppress(DeadlineExceeded):
                    self._come(number, self.groups[number].take(1, min(left, longest)))
                    self._look()
                    return True

    def _come(self, number: int, answers: Sequence[Answer]) -> None:
        self._ready += [(self._by_slot[number, answer.slot], answer) for answer in answers]

    def states(self) -> list[Any]:
        """The state of every session, as plain data."""
        found: list[Any] = [None] * len(self.shards)
        for number, group in enumerate(self.groups):
            for slot, state in enumerate(group.states()):
                found[self.shards.index(self._by_slot[number, slot])] = state
        return found

    def frames(self) -> tuple[Any, ...]:
        """A frame of every environment."""
        made: list[Any] = []
        for state in self.states():
            frames = state.get("frames")
            if frames is None:
                raise OperationUnsupported(f"{self._label} gave no frames of its environments")
            made += [np.array(frame) for frame in frames]
        return tuple(made)

    def close(self) -> None:
        """Close the sessions."""
        for group in self.groups:
            group.close()

    # -- out --------------------------------------------------------------------------------------

    def _post(self, who: list[_Shard], actions: Any) -> None:
        if not all(shard.begun for shard in who):
            raise EpisodeNotStarted("step() before reset(): call reset() first")
        payloads = self._encoded(who, actions)
        steps: dict[int, tuple[list[int], list[bytes], list[int]]] = {}
        for shard, payload in zip(who, payloads, strict=True):
            slots, sent, resets = steps.setdefault(shard.group, ([], [], []))
            if shard.failed and self.mode is not AutoresetMode.DISABLED:
                resets.append(shard.slot)
            else:
                slots.append(shard.slot)
                sent.append(payload)
            shard.due = True
        for number, (slots, sent, resets) in steps.items():
            self.groups[number].step(slots, sent, resets)

    def _encoded(self, who: list[_Shard], actions: Any) -> list[bytes]:
        rows = self.rows
        if len(who) == 1:
            parts = [actions]
        else:
            self._check_length(actions, rows * len(who))
            space = self.single_action_space
            beyond = outside(space, actions)
            if beyond is not None:  # one server would step what another refuses
                raise InvalidAction(
                    f"invalid action: row {np.flatnonzero(beyond)[0]} of {len(beyond)} must be an"
                    f" element of {space}; no environment was stepped"
                )
            parts = [_part(space, actions, i * rows, (i + 1) * rows) for i in range(len(who))]
        made = []
        for shard, part in zip(who, parts, strict=True):
            made.append(self._payload(shard, self._to_wire(self._array_of(part))))
        return made

    def _array_of(self, batch: Any) -> Any:
        """A batch of a space of arrays as one array, if it is a list."""
        if not isinstance(batch, list) or not isinstance(self.single_action_space, _ARRAYS):
            return batch
        return array_of(self.single_action_space, batch)

    def _payload(self, shard: _Shard, batch: Any) -> bytes:
        """Encode a batch of actions; of arrays all but the elements is the same each time."""
        head = self._head
        if head is not None:
            octets: bytes = batch.tobytes()
            return head + octets
        payload: bytes = self.groups[shard.group].wire.encode_action(batch)
        if isinstance(batch, np.ndarray) and batch.nbytes and payload.endswith(batch.tobytes()):
            self._head = payload[: len(payload) - batch.nbytes]
        return payload

    def _check_length(self, actions: Any, wanted: int) -> None:
        space, batch = self.single_action_space, actions
        while isinstance(space, spaces.Dict | spaces.Tuple):
            key: Any = next(iter(space.spaces)) if isinstance(space, spaces.Dict) else 0
            try:
                space, batch = space.spaces[key], batch[key]
            except (KeyError, TypeError, IndexError):
                raise InvalidAction(
                    f"invalid actions: they must be a batch of {self.single_action_space}"
                ) from None
        try:
            found = len(batch)
        except TypeError:
            found = -1
        if found != wanted:
            raise ValueError(f"{wanted} actions are needed, got {actions!r:.120}")

    # -- in ---------------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Take what was sent and not received: its rows are not wanted any more."""
        for group in self.groups:
            if group.waiting:
                group.take(group.waiting)
        for shard in self.shards:
            shard.due = False
        self._due = 0
        self._ready = []

    def _take(self, counts: Mapping[int, int]) -> list[tuple[_Shard, _Taken]]:
        """The answers of so many shards of each group."""
        came: list[tuple[_Shard, Answer]] = []
        for number, count in counts.items():
            answers = self.groups[number].take(count)
            came += [(self._by_slot[number, answer.slot], answer) for answer in answers]
        return self._all_read(came)

    def _all_read(self, came: Sequence[tuple[_Shard, Answer]]) -> list[tuple[_Shard, _Taken]]:
        taken = [(shard, self._read(shard, answer)) for shard, answer in came]
        if len(taken) > 1:
            taken.sort(key=lambda each: each[0].start)
        return taken

    def _read(self, shard: _Shard, answer: Answer) -> _Taken:
        shard.due = False
        final = answer.final
        error = answer.error or (final if isinstance(final, OpenEnvError) else None)
        frame = answer.frame
        if frame is not None:
            try:
                made = self._opened(shard, frame, answer.again)
            except OpenEnvError as exc:
                error, frame = exc, None
        if error is None:
            shard.failed = False
            shard.begun = True
            self._set_valid(shard, True)
            return made
        called_wrongly = isinstance(error, CallerError) and not isinstance(error, SessionClosed)
        if not called_wrongly:
            shard.failed = frame is None
            shard.ids = shard.ids if frame is not None else None
            self._set_valid(shard, False)
        shard.begun = shard.begun or frame is not None
        return self._masked(shard, error, made.infos if frame is not None else {})

    def _set_valid(self, shard: _Shard, value: bool) -> None:
        where = slice(shard.start, shard.start + self.each)
        self.valid[where if shard.ids is None else shard.start + shard.ids] = value

    def _masked(self, shard: _Shard, error: OpenEnvError, infos: dict[str, Any]) -> _Taken:
        """Rows that no environment gave. No reward is made up for them."""
        rows = self.rows
        about: dict[str, Any] = {
            "masked": np.ones(rows, np.bool_),
            "_masked": np.ones(rows, np.bool_),
            "error": np.full(rows, None, object),
            "_error": np.ones(rows, np.bool_),
        }
        about["error"][:] = [error] * rows
        return _Taken(
            np.full(rows, math.nan),
            np.zeros(rows, np.bool_),
            np.ones(rows, np.bool_),
            infos | about,
            error,
        )

    def _checked_ids(self, told: Any) -> Any:
        """The environments that a session names: int64 [rows].

        Raises:
            InvalidObservation: it names none, or more than it has.
        """
        ids = np.array(told)
        whole = ids.ndim == 1 and (ids.dtype.kind in "iu" or not ids.size)
        if not whole or ((ids < 0) | (ids >= self.each)).any():
            raise InvalidObservation(
                f"{self._label} showed rows of the environments {told!r:.60}, of which it has"
                f" {self.each}"
            )
        return ids.astype(np.int64)

    def _opened(self, shard: _Shard, frame: Any, again: bool) -> _Taken:
        """The rows of a reply.

        Raises:
            InvalidObservation: they are not what the schema says.
        """
        payload, wire = frame.payload, self.groups[shard.group].wire
        found = None if self._layout is None else self._layout.read(payload)
        if found is not None:
            shard.seen, shard.ids = found[0], None
            infos = {} if frame.info is None else wire.decode_any(frame.info)
            return _Taken(*found[1:], self._infos(infos, self.each) if infos else {})
        rows = wire.decode_observation(payload)
        if not isinstance(rows, dict):
            raise InvalidObservation(
                f"{self._label} showed {type(rows).__name__}, where rows of a vector were to come"
            )
        ids = rows.get("env_id")
        if ids is not None:
            ids = self._checked_ids(ids)
        count = self.each if ids is None else len(ids)
        fit = self._openers.get(count)
        if fit is None:
            space = batch_space(self.single_observation_space, count)
            fit = self._openers[count] = opener(space)
        seen = fit(rows.get("observations"))
        partly = again and ids is not None and count != self.rows
        if partly:
            seen = _put(self.single_observation_space, self._own(shard), ids, seen)
        shard.seen = seen
        shard.ids = None if partly else ids
        if self._layout is None and self._plain and seen is rows["observations"]:
            self._layout = _Layout.of(payload, rows)
        return _Taken(
            self._rewards(rows, count, again),
            self._ends(rows, "terminated", count),
            self._ends(rows, "truncated", count),
            {} if frame.info is None else self._infos(wire.decode_any(frame.info), count),
            None,
            again,
        )

    def _own(self, shard: _Shard) -> Any:
        """A copy of what a shard showed last."""
        space, count = self.single_observation_space, self.each
        made = create_empty_array(space, count, np.zeros)
        return made if shard.seen is None else _put(space, made, slice(None), shard.seen)

    def _rewards(self, rows: Mapping[str, Any], count: int, again: bool) -> Any:
        rewards, given = rows.get("rewards"), rows.get("given")
        if rewards is None:
            return np.full(count, 0.0 if again else self._missing)
        rewards = self._column(rewards, np.float64, "rewards", count)
        if given is None:
            return rewards
        return np.where(self._column(given, np.bool_, "given", count), rewards, self._missing)

    def _ends(self, rows: Mapping[str, Any], name: str, count: int) -> Any:
        found = rows.get(name)
        if found is None:
            return np.zeros(count, np.bool_)
        return self._column(found, np.bool_, name, count)

    def _column(self, given: Any, dtype: Any, name: str, count: int) -> Any:
        array = np.array(given, dtype)
        if array.shape != (count,):
            raise InvalidObservation(
                f"{self._label} gave {name} of shape {array.shape} for {count} rows"
            )
        return array

    def _infos(self, infos: Mapping[str, Any], count: int) -> dict[str, Any]:
        """Infos as a vector in this process has them: with memory of their own."""
        made: dict[str, Any] = {}
        for key, value in infos.items():
            if isinstance(value, np.ndarray):
                made[key] = np.array(value)
            elif isinstance(value, dict):
                made[key] = self._infos(value, count)
            elif isinstance(value, list) and len(value) == count and f"_{key}" in infos:
                items = np.full(count, None, object)
                for i, item in enumerate(value):
                    if item is not None:
                        items[i] = self._row_of(item) if key == "final_obs" else _owned(item)
                made[key] = items
            else:
                made[key] = value
        return made

    def _row_of(self, value: Any) -> Any:
        return _owned(self._from_row(value))

    # -- rows of all ------------------------------------------------------------------------------

    def _results(self, taken: list[tuple[_Shard, _Taken]], who: list[_Shard]) -> Batch:
        self._raise_failed(taken)
        shown = self._shown(who)
        infos = self._merged([(shard, each.infos) for shard, each in taken], who)
        if len(taken) == 1:
            only = taken[0][1]
            return shown, only.rewards, only.terminated, only.truncated, infos
        if not taken:
            none = np.zeros(0, np.bool_)
            return shown, np.zeros(0), none, none.copy(), infos
        parts = [each for _, each in taken]
        return (
            shown,
            np.concatenate([each.rewards for each in parts]),
            np.concatenate([each.terminated for each in parts]),
            np.concatenate([each.truncated for each in parts]),
            infos,
        )

    def _raise_failed(self, taken: list[tuple[_Shard, _Taken]]) -> None:
        for shard, each in taken:
            error = each.error
            if error is None:
                continue
            wrongly = isinstance(error, CallerError) and not isinstance(error, SessionClosed)
            if self._failures == "raise" or wrongly:
                error.add_note(f"in environments {self._named(shard)} of {self.num_envs}")
                raise error

    def _named(self, shard: _Shard) -> str:
        return f"{shard.start} to {shard.start + self.each - 1}"

    def _shown(self, who: list[_Shard]) -> Any:
        """The last rows of some shards, in an array of the caller's own unless ``copy=False``."""
        space = self.single_observation_space
        if self._copy and len(who) == 1 and self._plain and who[0].seen is not None:
            return np.array(who[0].seen)
        rows = [self.rows if s.ids is not None or s.seen is None else self.each for s in who]
        total = sum(rows)
        out = self._all if not self._copy and total == self.batch_size else None
        if out is None:
            out = create_empty_array(space, total, np.zeros)
        at = 0
        for shard, count in zip(who, rows, strict=True):
            if shard.seen is not None:
                out = _put(space, out, slice(at, at + count), shard.seen)
            at += count
        if not self._copy and total == self.batch_size:
            self._all = out
        return out

    def _merged(
        self, infos: list[tuple[_Shard, dict[str, Any]]], who: list[_Shard]
    ) -> dict[str, Any]:
        """The infos of several shards as those of one vector."""
        if len(who) == 1:
            return infos[0][1] if infos else {}
        rows = self.rows if self.rows < self.each else self.each
        places = {id(shard): number * rows for number, shard in enumerate(who)}
        made: dict[str, Any] = {}
        for shard, each in infos:
            if "env_id" in each and isinstance(each["env_id"], np.ndarray):
                each["env_id"] = each["env_id"] + shard.start
            _merge(made, each, places[id(shard)], rows, rows * len(who))
        return made


def infos_by_row(infos: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """Return the infos of a vector as those of each of its environments.

    Args:
        infos: as Gymnasium has them: ``_key`` says which rows have a value; all have without it.
        count: rows.
    """
    made: list[dict[str, Any]] = [{} for _ in range(count)]
    for key, value in infos.items():
        if key.startswith("_") and key[1:] in infos:
            continue
        mask = infos.get(f"_{key}")
        if isinstance(value, dict):
            inner: Any = infos_by_row(value, count)
        elif isinstance(value, np.ndarray | list) and len(value) == count:
            inner = value
        else:
            inner = [value] * count
        for i in range(count) if mask is None else np.flatnonzero(mask).tolist():
            made[i][key] = inner[i]
    return made


def _merge(into: dict[str, Any], infos: Mapping[str, Any], at: int, rows: int, total: int) -> None:
    """Put the infos of some rows into those of all; ``_key`` says which rows have a value."""
    for key, value in infos.items():
        if key.startswith("_") and key[1:] in infos:
            continue  # a mask, which goes with what it is of
        mask = infos.get(f"_{key}")
        if isinstance(value, dict):
            _merge(into.setdefault(key, {}), value, at, rows, total)
        else:
            array = value if isinstance(value, np.ndarray) else np.full(rows, value, object)
            if array.ndim == 0 or len(array) != rows:
                array = np.full(rows, None, object)
                array[:] = [value] * rows
            target = into.get(key)
            if target is None:
                fill: Any = None if array.dtype == object else 0
                target = np.full((total, *array.shape[1:]), fill, array.dtype)
            elif target.dtype != array.dtype or target.shape[1:] != array.shape[1:]:
                target = _as_objects(target)
                array = _as_objects(array)
            target[at : at + rows] = array
            into[key] = target
        there = into.setdefault(f"_{key}", np.zeros(total, np.bool_))
        there[at : at + rows] = True if mask is None else mask


def _as_objects(array: Any) -> Any:
    made = np.full(len(array), None, object)
    made[:] = list(array)
    return made


def _part(space: spaces.Space[Any], batch: Any, start: int, stop: int) -> Any:
    """Some rows of a batch."""
    if isinstance(space, spaces.Dict):
        return {key: _part(part, batch[key], start, stop) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(
            _part(part, rows, start, stop) for part, rows in zip(space.spaces, batch, strict=True)
        )
    return batch[start:stop]


def _put(space: spaces.Space[Any], out: Any, where: Any, batch: Any) -> Any:
    """Put rows into a batch; return it, for one that is a tuple of rows is made anew."""
    if isinstance(space, _ARRAYS):
        out[where] = batch
        return out
    if isinstance(space, spaces.Dict):
        return {key: _put(p, out[key], where, batch[key]) for key, p in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        parts = zip(space.spaces, out, batch, strict=True)
        return tuple(_put(part, rows, where, new) for part, rows, new in parts)
    rows = list(out)
    places = range(len(rows))[where] if isinstance(where, slice) else where
    for place, row in zip(places, batch, strict=True):
        rows[place] = _owned(row)
    return tuple(rows)


def _owned(value: Any) -> Any:
    """A value whose arrays are memory of their own."""
    if isinstance(value, np.ndarray):
        return np.array(value)
    if isinstance(value, dict):
        return {key: _owned(part) for key, part in value.items()}
    if isinstance(value, tuple):
        made = [_owned(part) for part in value]
        return type(value)(*made) if hasattr(value, "_fields") else tuple(made)
    if isinstance(value, list):
        return [_owned(part) for part in value]
    return value


def refuse_settings(**given: Any) -> None:
    """Refuse what belongs to sessions of one environment.

    Raises:
        OperationUnsupported: it was given.
    """
    for name, value in given.items():
        if value is not None:
            raise OperationUnsupported(
                f"{name}= belongs to sessions of one environment, and these are vectors"
            )
