"""GymVectorEnv: many sessions on one connection as a ``gymnasium.vector.VectorEnv``.

Rules:

- A step is one message each way, with at most one more where ``SAME_STEP`` resets what ended.
- A failure of one environment is its own row's: ``failures="raise"`` raises it, ``"mask"``
  gives a row whose reward is not a number, ``truncated`` and named in ``infos["masked"]``;
  ``infos["error"]`` has the exception. Its session is replaced with the next reset.
- A call that was wrong (an action outside the space, a step after the end) always raises.
- The mask of a row belongs to the observation that the row shows: after a reset in the same step
  to that of the new episode. A row whose next action counts for nothing has a mask of ones.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, iterate
from numpy.typing import NDArray

from openenv_async.client.arguments import checked_seed
from openenv_async.client.env import GenericEnvClient
from openenv_async.client.vector import Answer, ResetRequest, VectorSessions
from openenv_async.client.vector_columns import AnswerColumns
from openenv_async.errors import (
    CallerError,
    EpisodeNotStarted,
    InvalidAction,
    InvalidObservation,
    InvalidOption,
    OpenEnvError,
    OperationUnsupported,
    SessionBusy,
    SessionClosed,
    SessionLost,
)
from openenv_async.integrations.gymnasium.columns import ActionColumn, numbers_of, outside
from openenv_async.integrations.gymnasium.hosted import (
    HostedVectors,
    mode_of,
    refuse_other_vectors,
    refuse_settings,
    shards_needed,
)
from openenv_async.integrations.gymnasium.rows import ObservationRows
from openenv_async.integrations.gymnasium.settings import (
    Translation,
    frame_of,
    render_metadata,
    render_options,
)
from openenv_async.protocol.columns import REWARDED, TERMINATED, TRUNCATED
from openenv_async.schemas.legal import ACTION_MASK
from openenv_async.targets.resolve import ResolvedTarget, Target, resolve
from openenv_async.targets.sessions import BlockingSessions, at_one_server
from openenv_async.types import Timeouts

__all__ = ["Failures", "GymVectorEnv"]

Failures = Literal["raise", "mask"]

_MOST_PAYLOADS: Final = 65_536
"""Encoded actions that are kept for the next time."""
_OVER: Final = TERMINATED | TRUNCATED
# Tables of ``bytes.translate`` for flags: faster than NumPy for as few rows as a batch has.
_LACKS_REWARD: Final = bytes(not flags & REWARDED for flags in range(256))
_IS_TERMINATED: Final = bytes(bool(flags & TERMINATED) for flags in range(256))
_IS_TRUNCATED: Final = bytes(bool(flags & TRUNCATED) for flags in range(256))
_IS_OVER: Final = bytes(bool(flags & _OVER) for flags in range(256))

Batch = tuple[Any, Any, Any, Any, dict[str, Any]]


class GymVectorEnv(VectorEnv[Any, Any, Any]):
    """``num_envs`` sessions of one server, stepped together.

    Observations lie in arrays that are allocated once: with ``copy=False`` what ``step``
    returns is valid until the next call. ``send`` and ``recv`` step some environments while the
    caller deals with others. A pickled or forked copy opens sessions of its own.

    Sessions that are vectors of environments themselves (``openenv-async serve … --vector 64``)
    make up this one together: a session of each server, or as many as ``num_envs`` takes; see
    ``openenv_async.integrations.gymnasium.hosted``.

    Args:
        source: as for ``GymEnv``; several servers of vectors as a list of URLs, or a pool.
        num_envs: how many environments: a session each, or those of whole vectors. May be left out
            for vectors.
        autoreset_mode: ``NEXT_STEP``, ``SAME_STEP`` or ``DISABLED``, as Gymnasium means them;
            ``None`` is ``NEXT_STEP``, and of vectors whatever theirs is.
        failures: ``"raise"`` or ``"mask"``; see the module.
        copy: return copies of the observations.
        params, token, timeouts, render_mode, missing_reward: as for ``GymEnv``.
        action_field, observation_field: as for ``GymEnv``.
        action_space, encode_action, observation_space, decode_observation: as for ``GymEnv``.
        server_arguments: more arguments of ``openenv-async serve``, for a name.

    Attributes:
        valid: bool [num_envs], whether the last row of each environment is one that an
            environment gave.
    """

    def __init__(
        self,
        source: Target,
        num_envs: int | None = None,
        *,
        autoreset_mode: AutoresetMode | str | None = None,
        failures: Failures = "raise",
        copy: bool = True,
        params: Mapping[str, Any] | None = None,
        token: str | None = None,
        timeouts: Timeouts | None = None,
        render_mode: str | None = None,
        missing_reward: float = math.nan,
        action_field: str | None = None,
        observation_field: str | None = None,
        action_space: spaces.Space[Any] | None = None,
        encode_action: Callable[[Any], Any] | None = None,
        observation_space: spaces.Space[Any] | None = None,
        decode_observation: Callable[[Any], Any] | None = None,
        server_arguments: Sequence[str] = (),
    ) -> None:
        if failures not in ("raise", "mask"):
            raise ValueError(f"failures must be 'raise' or 'mask', got {failures!r}")
        modes = [mode.value for mode in AutoresetMode]
        if not isinstance(autoreset_mode, AutoresetMode | None) and autoreset_mode not in modes:
            raise ValueError(
                f"autoreset_mode must be one of {', '.join(modes)}, got {autoreset_mode!r}"
            )
        wanted = None if autoreset_mode is None else AutoresetMode(autoreset_mode)
        self.autoreset_mode = AutoresetMode.NEXT_STEP if wanted is None else wanted
        self.num_envs = 0 if num_envs is None else num_envs
        self._hosted: HostedVectors | None = None
        self.render_mode = render_mode
        self._failures = failures
        self._copy = copy
        self._missing_reward = missing_reward
        self._told = False
        target = resolve(source, params=params, token=token, entry="GymVectorEnv")
        self._label = target.label
        if server_arguments and target.kind != "named":
            raise InvalidOption("server_arguments= belongs to the name of an environment")
        self._served = BlockingSessions(
            at_one_server(target),
            client=GenericEnvClient,
            server={"arguments": server_arguments} if server_arguments else None,
            timeouts=timeouts,
            options=render_options(render_mode),
        )
        try:
            schema = self._served.schema()
            if "vector" in schema:
                refuse_settings(
                    action_field=action_field,
                    observation_field=observation_field,
                    encode_action=encode_action,
                    decode_observation=decode_observation,
                )
                self._host(target, schema, num_envs, wanted, action_space, observation_space)
                return
            if num_envs is None:
                raise InvalidOption(
                    f"{self._label} serves one environment a session: say how many there are to be"
                    " with num_envs=",
                    option="num_envs",
                )
            self.metadata = {
                **render_metadata(schema, render_mode),
                "autoreset_mode": self.autoreset_mode,
            }
            self._translation = translation = Translation(
                schema,
                action_field=action_field,
                observation_field=observation_field,
                action_space=action_space,
                encode_action=encode_action,
                observation_space=observation_space,
                decode_observation=decode_observation,
            )
            self.sessions = VectorSessions(
                self._served.session(),
                num_envs,
                same_step=self.autoreset_mode is AutoresetMode.SAME_STEP,
                resume_options=translation.resume_options,
            )
            self.single_action_space = translation.action.space
            self.single_observation_space = translation.observation.space
            self.action_space = batch_space(self.single_action_space, num_envs)
            self.observation_space = batch_space(self.single_observation_space, num_envs)
            self._allocate()
        except BaseException:
            self._served.close()
            raise

    def _host(
        self,
        target: ResolvedTarget,
        schema: Mapping[str, Any],
        num_envs: int | None,
        wanted: AutoresetMode | None,
        action_space: spaces.Space[Any] | None,
        observation_space: spaces.Space[Any] | None,
    ) -> None:
        """Take sessions that are vectors, as many as it takes."""
        told = schema["vector"]
        row = {**schema, "action": told["action"], "observation": told["observation"]}
        for part, space in (("action", action_space), ("observation", observation_space)):
            if not told[part] and space is None:
                raise OperationUnsupported(
                    f"{self._label} does not say what the {part} of one environment of its vectors"
                    f" is: let row_schemas() of its class give {part!r}, or pass {part}_space="
                )
        self.autoreset_mode = mode_of(told, wanted, self._label)
        self.metadata = {
            **render_metadata(schema, self.render_mode),
            "autoreset_mode": self.autoreset_mode,
        }
        clients = self._served.clients(target)
        if len(clients) > 1:
            refuse_other_vectors(told, self._served.schemas(clients), self._label)
        self._hosted = hosted = HostedVectors(
            clients,
            schema,
            shards_needed(told, num_envs, len(clients), self._label),
            mode=self.autoreset_mode,
            translation=Translation(
                row, action_space=action_space, observation_space=observation_space
            ),
            failures=self._failures,
            copy=self._copy,
            missing_reward=self._missing_reward,
            label=self._label,
        )
        self.num_envs, self.valid = hosted.num_envs, hosted.valid
        self._everyone = list(range(self.num_envs))
        self.single_action_space = hosted.single_action_space
        self.single_observation_space = hosted.single_observation_space
        self.action_space = hosted.action_space
        self.observation_space = hosted.observation_space

    def _allocate(self) -> None:
        if self._hosted is not None:
            self.valid = self._hosted.valid
            self._everyone = list(range(self.num_envs))
            return
        count = self.num_envs
        self._rows = ObservationRows(
            self.single_observation_space,
            count,
            self._decoded,
            alike=not self._translation.decodes_itself,
            shape=self._translation.observation.shape,
        )
        self._rewards = np.zeros(count, np.float64)
        self._terminations = np.zeros(count, np.bool_)
        self._truncations = np.zeros(count, np.bool_)
        self.valid = np.ones(count, np.bool_)
        self._ended = np.zeros(count, np.bool_)
        self._late: set[int] = set()
        self._due = 0
        self._payloads: dict[int, bytes] = {}
        self._everyone = list(range(count))
        self._usual = bytes([REWARDED]) * count
        self._begun = False
        self._legal: NDArray[np.int8] | None = None
        self._unfit: list[tuple[int, OpenEnvError]] = []
        if self._told or self._translation.tells_legal:
            self._expect_masks()

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: value
            for name, value in self.__dict__.items()
            if name not in ("_rows", "_payloads")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._allocate()

    # -- Gymnasium's calls --------------------------------------------------------------------

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in every environment, or where ``options["reset_mask"]`` says so.

        Args:
            seed: of the first environment, the others count on from it; or one for each.
            options: of each environment's reset.
        """
        if self._hosted is not None:
            super().reset(seed=seed if isinstance(seed, int) else None)
            return self._hosted.reset(seed, options)
        seeds = self._seeds_of(seed)
        options = self._translation.checked_options(options)
        self._drain()
        super().reset(seed=seeds[0] if isinstance(seed, int) else None)
        who = self._everyone
        if options and "reset_mask" in options:
            options = dict(options)
            mask = np.asarray(options.pop("reset_mask"))
            if mask.shape != (self.num_envs,) or mask.dtype != np.bool_ or not mask.any():
                raise ValueError(
                    f"reset_mask must be {self.num_envs} booleans of which one is true at least"
                )
            who = np.flatnonzero(mask).tolist()
            options = options or None  # nothing but the mask: the environment is given none
        infos = self._begin(who, seeds, [options] * self.num_envs)
        return self._shown(), infos

    def _seeds_of(self, seed: Any) -> list[int | None]:
        """One seed for each environment, from one for the first or from as many as there are.

        Raises:
            InvalidOption, ValueError: they are of the wrong type, or not as many.
        """
        if not np.ndim(seed):
            first = checked_seed(seed)
            return [None if first is None else first + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"{len(seed)} seeds for {self.num_envs} environments")
        return [checked_seed(each) for each in seed]

    def _begin(
        self, who: list[int], seeds: Sequence[int | None], options: Sequence[dict[str, Any] | None]
    ) -> dict[str, Any]:
        """Reset some environments; seeds and options are those of all."""
        self.sessions.open()
        requests = []
        for i in who:
            given = self._translation.reset_options(options[i], resume=False)
            payload = self.sessions.wire.encode_any(given) if given else None
            requests.append(ResetRequest(i, seeds[i], payload))
        self.sessions.reset(requests)
        return self._take(len(who))[1]

    def step(self, actions: Any) -> Batch:
        """One action in every environment."""
        if self._hosted is not None:
            return self._hosted.step(actions)
        if self._due:
            raise SessionBusy(f"step() while {self._due} rows are under way: recv() them first")
        self._refuse_outside(actions, self._everyone)
        self._request(self._encoded(actions), self._everyone)
        _, infos = self._take(self.num_envs)
        return (
            self._shown(),
            self._rewards.copy(),
            self._terminations.copy(),
            self._truncations.copy(),
            infos,
        )

    def send(self, actions: Any, env_ids: Sequence[int] | None = None) -> None:
        """Begin a step of some environments, one action for each; ``recv`` gives the rows.

        Args:
            actions: as for ``step``, or as many as ``env_ids``.
            env_ids: which environments; all of them when ``None``.
        """
        if self._hosted is not None:
            self._hosted.send(actions, env_ids)
            return
        who = self._everyone if env_ids is None else [int(i) for i in env_ids]
        self._refuse_outside(actions, who)
        self._request(self._encoded(actions, len(who)), who)
        self._due += len(who)

    def recv(self, count: int | None = None, timeout: float | None = None) -> Batch:
        """The first ``count`` rows of what was sent; all of them when ``None``.

        Returns:
            What ``step`` returns, with rows in the order in which they came; the environment of
            each is in ``infos["env_id"]``, and so are the other infos by environment.

        Raises:
            DeadlineExceeded: there were not as many within ``timeout`` seconds.
        """
        if self._hosted is not None:
            return self._hosted.recv(count, timeout)
        rows, infos = self._take(self._due if count is None else count, timeout)
        self._due -= len(rows)
        infos["env_id"] = np.array(rows, np.int64)
        return (
            self._rows.some(rows),
            self._rewards[rows],
            self._terminations[rows],
            self._truncations[rows],
            infos,
        )

    def render(self) -> tuple[Any, ...] | None:
        """A frame of every environment; ``None`` without a render mode."""
        if self.render_mode is None:
            return None
        if self._hosted is not None:
            return self._hosted.frames()
        return tuple(frame_of(state) for state in self.sessions.states())

    def states(self) -> list[Any]:
        """The state of every environment, or of every vector, as plain data."""
        return self.sessions.states() if self._hosted is None else self._hosted.states()

    def close_extras(self, **kwargs: Any) -> None:
        """Close the sessions, and the server if it was started for this."""
        try:
            if self._hosted is not None:
                self._hosted.close()
            else:
                self.sessions.close()
        finally:
            self._served.close()

    @property
    def action_masks(self) -> Callable[[], NDArray[np.int8]]:
        """The function that gives the masks of what is legal now: ``envs.action_masks()``.

        int8 [num_envs, actions], 1 for what is legal; the rows are as of ``GymEnv``, and are also
        in ``infos["action_mask"]``.

        Raises:
            AttributeError: the environments do not tell what is legal, or their action space has
                no masks.
        """
        if self._hosted is not None:
            raise AttributeError(f"{self._label} tells masks in infos, as its vectors do")
        if not self._translation.masks.width or (self._begun and self._legal is None):
            raise AttributeError(
                f"{self._label} has no action masks: it does not tell what is legal, or its"
                f" {self.single_action_space} has none"
            )
        return self._masks

    def _masks(self) -> NDArray[np.int8]:
        if not self._begun or self._legal is None:
            raise EpisodeNotStarted("action_masks() before reset(): call reset() first")
        return self._legal.copy()

    def _expect_masks(self) -> NDArray[np.int8]:
        """Return the rows of masks, which are made when the first is told."""
        if self._legal is None:
            self._told = True
            self._legal = np.ones((self.num_envs, self._translation.masks.width), np.int8)
        return self._legal

    # -- out ----------------------------------------------------------------------------------

    def _request(self, actions: list[bytes] | ActionColumn, who: list[int]) -> None:
        begins = None
        if self.autoreset_mode is not AutoresetMode.DISABLED and np.count_nonzero(self._ended):
            begins = self._ended.copy() if who is self._everyone else self._ended[who]
            if who is not self._everyone and not np.count_nonzero(begins):
                begins = None
        if begins is not None and self.autoreset_mode is AutoresetMode.SAME_STEP:
            self._late.update([i for i, begin in zip(who, begins, strict=True) if begin])
        if isinstance(actions, ActionColumn):
            column = (actions if begins is None else actions.where(~begins)).packed()
            self.sessions.step_columns(column, None if who is self._everyone else who, begins)
        elif begins is not None:
            chosen = [(i, a) for i, a, b in zip(who, actions, begins, strict=True) if not b]
            resets = [i for i, begin in zip(who, begins, strict=True) if begin]
            self.sessions.step([i for i, _ in chosen], [a for _, a in chosen], resets)
        else:
            self.sessions.step(who, actions)

    def _refuse_outside(self, actions: Any, who: list[int]) -> None:
        """Refuse a batch before anything of it is stepped.

        Raises:
            InvalidAction: an action is beyond the bounds of its space, and its row takes one now.
        """
        action = self._translation.action
        beyond = None if action.shape is None else outside(action.space, actions)
        if beyond is None or len(beyond) != len(who):
            return
        if self.autoreset_mode is not AutoresetMode.DISABLED:
            beyond &= ~self._ended[who]
        for row in np.flatnonzero(beyond)[:1].tolist():
            one = next(itertools.islice(iterate(self.action_space, actions), row, None))
            error = InvalidAction(
                f"invalid action: action must be an element of {action.space}, got {one!r:.80};"
                " no environment was stepped"
            )
            error.add_note(f"in environment {who[row]} of {self.num_envs}")
            raise error

    def _encoded(self, actions: Any, count: int | None = None) -> list[bytes] | ActionColumn:
        """Actions as a column, or as payloads; those of a Discrete space are encoded once."""
        wanted = self.num_envs if count is None else count
        action = self._translation.action
        if self.sessions.takes_columns and action.shape is not None:
            column = ActionColumn.of(action.shape, action.space, actions, wanted)
            if column is not None:
                return column
        encode, to_wire = self.sessions.wire.encode_action, action.to_wire
        if isinstance(self.single_action_space, spaces.Discrete):
            numbers = self._numbers(actions, wanted)
            known = self._payloads
            if len(known) > _MOST_PAYLOADS:
                known.clear()
            for number in {*numbers} - known.keys():
                known[number] = encode(to_wire(number))
            return [known[number] for number in numbers]
        space = self.action_space
        if wanted != self.num_envs:
            space = batch_space(self.single_action_space, wanted)
        try:
            rows = list(iterate(space, actions))
        except (KeyError, TypeError, IndexError) as exc:
            raise InvalidAction(
                f"invalid actions: they must be a batch of {self.single_action_space}: {exc!r}"
            ) from exc
        made = [encode(to_wire(action)) for action in rows]
        if len(made) != wanted:
            raise ValueError(f"{wanted} actions are needed, got {len(made)}")
        return made

    def _numbers(self, actions: Any, wanted: int) -> list[int]:
        """Actions of a Discrete space, one for each row; a row may be an array of one."""
        array = numbers_of(self.single_action_space, actions)
        if array.shape != (wanted,):
            raise ValueError(f"{wanted} actions are needed, got {actions!r:.120}")
        numbers: list[int] = array.tolist()
        if array.dtype.kind not in "iu":
            for number in numbers:
                self._translation.action.to_wire(number)  # 1.0 is 1 to a dict, but no action
        return numbers

    # -- in -----------------------------------------------------------------------------------

    def _drain(self) -> None:
        """Take what was sent and not received: its rows are not wanted any more."""
        if self.sessions.waiting:  # also of a call that was interrupted
            self.sessions.take_columns(self.sessions.waiting)
        self._due = 0

    def _take(self, count: int, timeout: float | None = None) -> tuple[list[int], dict[str, Any]]:
        """Put the next answers into their rows."""
        infos: dict[str, Any] = {}
        rows: list[int] = []
        answers: list[Answer] = []
        parts = self.sessions.take_columns(count, timeout)
        self._begun = True
        self._unfit.clear()
        for part in parts:
            if not isinstance(part, AnswerColumns):
                answers.append(part)
            elif self._late:
                answers += part.apart()
            else:
                rows += self._everyone if part.is_whole else part.slots.tolist()
                self._take_columns(part, infos)
        if answers:
            rows += self._take_answers(answers, infos)
        if self._unfit:
            self._leave_out_unfit(infos)
        return rows, infos

    def _take_columns(self, answers: AnswerColumns, infos: dict[str, Any]) -> None:
        """Put answers into their rows, all at once."""
        where: Any = slice(None) if answers.is_whole else answers.slots
        if self._legal is not None:
            self._legal[where] = 1
        final = answers.final
        if final is None or len(final) < len(answers):
            self._put_results(answers, where)
        if final is not None:  # and nothing of the reset but what it shows
            self._put_results(final, final.slots)
            self._ended[final.slots] = False
            observations = self._rows.elements(final)
            known = dict(final.infos())
            for i, slot in enumerate(final.slots.tolist()):
                info = self.sessions.wire.decode_any(known[i]) if i in known else {}
                self._add_info(infos, {"final_obs": observations[i], "final_info": info}, slot)
        self._rows.put_column(answers, where)
        given = answers.infos()
        if given:
            slots, flags = answers.slots.tolist(), answers.flags().tolist()
            for row, info in given:
                self._inform(infos, slots[row], info, bool(flags[row] & _OVER))

    def _put_results(self, answers: AnswerColumns, where: Any) -> None:
        """Rewards and ends of answers into their rows."""
        flags, again = answers.flags().tobytes(), answers.again
        self.valid[where] = True
        self._rewards[where] = answers.rewards()
        if again is None and flags == self._usual[: len(flags)]:
            self._terminations[where] = self._truncations[where] = self._ended[where] = False
            return
        lacking = flags.translate(_LACKS_REWARD)
        if again is not None:
            self._rewards[answers.slots[again]] = 0.0
            if lacking != again.tobytes():
                lacks = np.frombuffer(lacking, np.bool_) & ~again
                self._rewards[answers.slots[lacks]] = self._reward(None)
        elif 1 in lacking:
            self._rewards[answers.slots[np.frombuffer(lacking, np.bool_)]] = self._reward(None)
        for rows, table in (
            (self._terminations, _IS_TERMINATED),
            (self._truncations, _IS_TRUNCATED),
            (self._ended, _IS_OVER),
        ):
            rows[where] = np.frombuffer(flags.translate(table), np.bool_)

    def _take_answers(self, answers: list[Answer], infos: dict[str, Any]) -> list[int]:
        """Put answers that came one by one into their rows."""
        rows = [answer.slot for answer in answers]
        # NumPy takes a list of rows, but copies faster through a slice.
        where: Any = slice(None) if rows == self._everyone else rows
        if self._legal is not None:
            self._legal[[answer.slot for answer in answers if answer.frame is not None]] = 1
        if self._late or any(
            answer.frame is None or answer.final is not None for answer in answers
        ):
            self._take_apart(answers, infos)
            return rows
        frames: list[Any] = [answer.frame for answer in answers]
        self._rows.put([frame.payload for frame in frames], rows, where)
        self.valid[where] = True
        rewards = [frame.reward for frame in frames]
        if None in rewards or any(answer.again for answer in answers):
            rewards = [
                0.0 if answer.again else self._reward(answer.frame.reward)  # type: ignore[union-attr]  # all have one
                for answer in answers
            ]
        self._rewards[where] = rewards
        self._terminations[where] = [frame.terminated for frame in frames]
        self._truncations[where] = [frame.truncated for frame in frames]
        self._ended[where] = self._terminations[where] | self._truncations[where]
        for answer in answers:
            self._inform_of(answer, infos)
        return rows

    def _reward(self, given: float | None) -> float:
        return self._missing_reward if given is None else given

    def _take_apart(self, answers: list[Answer], infos: dict[str, Any]) -> None:
        """Take answers row by row, if something failed or was reset in the same step."""
        wrong: OpenEnvError | None = None
        for answer in answers:
            row, frame, final = answer.slot, answer.frame, answer.final
            failed = answer.error or (final if isinstance(final, OpenEnvError) else None)
            if failed is not None:
                called_wrongly = isinstance(failed, CallerError) and not isinstance(
                    failed, SessionClosed
                )
                if wrong is None and (self._failures == "raise" or called_wrongly):
                    wrong = failed
                    failed.add_note(f"in environment {row} of {self.num_envs}")
                refused = isinstance(failed, InvalidAction)  # and its episode goes on
                self._mask(row, failed, infos, ended=frame is None and not refused)
            elif final is not None:
                self._finish(row, final, infos)
            elif row in self._late:
                # It had failed and could not be reset in that step: a row that was not stepped now
                # has no transition either.
                late = SessionLost(f"environment {row} had no session; this row begins anew")
                self._mask(row, late, infos, ended=False)
            else:
                assert frame is not None
                self._rewards[row] = 0.0 if answer.again else self._reward(frame.reward)
                self._terminations[row] = frame.terminated
                self._truncations[row] = frame.truncated
                self._ended[row] = frame.terminated or frame.truncated
                self.valid[row] = True
            self._late.discard(row)
            if frame is not None:
                self._rows.put([frame.payload], [row], [row])
                self._inform_of(answer, infos)
        if wrong is not None:
            raise wrong

    def _mask(self, row: int, error: OpenEnvError, infos: dict[str, Any], *, ended: bool) -> None:
        """A row that no environment gave. No reward is made up for it."""
        self._rewards[row] = math.nan
        self._terminations[row] = False
        self._truncations[row] = True
        self._ended[row] = ended
        self.valid[row] = False
        if self._legal is not None:
            self._legal[row] = 1
        about: dict[str, Any] = {"masked": True, "error": error}
        if not ended:
            about["final_obs"] = self._rows.one(row)
        self._add_info(infos, about, row)

    def _finish(self, row: int, frame: Any, infos: dict[str, Any]) -> None:
        """The end of the episode before the one that the row now begins."""
        self._rewards[row] = self._reward(frame.reward)
        self._terminations[row] = frame.terminated
        self._truncations[row] = frame.truncated
        self._ended[row] = False
        self.valid[row] = True
        info = {} if frame.info is None else self.sessions.wire.decode_any(frame.info)
        self._add_info(
            infos, {"final_obs": self._rows.decoded(frame.payload), "final_info": info}, row
        )

    def _inform_of(self, answer: Answer, infos: dict[str, Any]) -> None:
        frame = answer.frame
        if frame is not None and frame.info is not None:
            self._inform(infos, answer.slot, frame.info, frame.terminated or frame.truncated)

    def _inform(self, infos: dict[str, Any], row: int, payload: Any, is_over: bool) -> None:
        info = self.sessions.wire.decode_any(payload)
        if not is_over:
            whose = f"{self._label}, environment {row} of {self.num_envs},"
            try:
                mask = self._translation.masks.of(info, whose)
            except InvalidObservation as exc:
                self._unfit.append((row, exc))
                return
            if mask is not None:
                self._expect_masks()[row] = mask
                info = {**info, ACTION_MASK: mask}
        self._add_info(infos, info, row)

    def _leave_out_unfit(self, infos: dict[str, Any]) -> None:
        """Take the rows whose mask does not fit as failures.

        Raises:
            InvalidObservation: unless failures are masked.
        """
        unfit, self._unfit = self._unfit, []
        for row, error in unfit:
            if self._failures == "raise":
                raise error
            self._mask(row, error, infos, ended=True)

    def _decoded(self, payload: Any) -> Any:
        """An element of the space of a payload."""
        decoded = self.sessions.wire.decode_observation(payload)
        return self._translation.observation.from_wire(decoded)

    def _shown(self) -> Any:
        return self._rows.copy() if self._copy else self._rows.all
