"""The frames of ``openenv.v1``.

Rules of this file:

- A frame is an array-like Struct ``[kind, ...]``; ``kind`` is the integer tag.
- ``channel`` stands for a session on one connection; channel 0 is the connection itself.
- ``seq`` is the session's request number: 1 for the first request, then one more each time.
- ``ack`` is the highest ``seq`` whose reply the client holds; the server forgets those replies.
- A field in ``PAYLOAD_FIELDS`` carries an object that was encoded on its own. Headers hold only
  scalars, so decoding a header can never recurse, and routing never decodes a payload.
- A ``timeout`` of ``None`` means the server's own setting, 0 means no deadline.
- Every number is bounded when it is decoded: integers to 64 bits with a sign (a seed to those of
  MessagePack), seconds to what is finite. Such a number can be written again by any codec.
- Fields are only ever appended, with defaults.
- The frames in ``MSGPACK_FRAMES`` are of MessagePack alone: their fields are arrays of bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import msgspec

from openenv_async.types import MAX_SECONDS

__all__ = [
    "CLIENT_FRAMES",
    "COLUMN_FRAMES",
    "MSGPACK_FRAMES",
    "PAYLOAD_FIELDS",
    "PROTOCOL_VERSION",
    "SERVER_FRAMES",
    "Begun",
    "Cancel",
    "Chunk",
    "ClientFrame",
    "Close",
    "Closed",
    "Credit",
    "Failed",
    "Frame",
    "GoingAway",
    "Hello",
    "ListTasks",
    "Observation",
    "ObservationColumns",
    "Open",
    "Opened",
    "Partial",
    "Payload",
    "Release",
    "Renew",
    "Reply",
    "Request",
    "Reset",
    "ServerFrame",
    "State",
    "StateIs",
    "Step",
    "StepColumns",
    "TasksListed",
    "Waiting",
    "Welcome",
]

PROTOCOL_VERSION: Final = 1
PAYLOAD_FIELDS: Final = frozenset({"payload", "info", "final"})

if TYPE_CHECKING:
    Payload = bytes | memoryview
else:
    # msgspec decodes a field to one type and encodes either. A view would save copying, and cost
    # more than that: two objects for the garbage collector a frame, and the whole message kept
    # alive with one array of it. Large payloads come in pieces, which are joined anyway.
    Payload = bytes

MAX_INT: Final = 2**63 - 1
_MAX_COUNT: Final = 2**31 - 1

Int = Annotated[int, msgspec.Meta(le=MAX_INT)]
"""An integer that MessagePack bounds from below, and for JSON the codec."""
Count = Annotated[int, msgspec.Meta(ge=0, le=_MAX_COUNT)]
Seconds = Annotated[float, msgspec.Meta(ge=-MAX_SECONDS, le=MAX_SECONDS)]
"""Neither NaN nor infinite, and no more than event loops can wait."""


class Frame(msgspec.Struct, array_like=True, gc=False, forbid_unknown_fields=True):
    """Base of every frame; an unknown trailing field is met by the codec's lenient path."""


class Hello(Frame, tag=0):
    """First frame of a client. Payload: map of client name, limits and wanted features."""

    version: Int
    payload: Payload | None = None


class Open(Frame, tag=1):
    """Open a session, or resume it on this connection.

    The client makes ``session`` (32 hex digits) and ``secret`` (32 hex digits), so that a lost
    reply orphans nothing: asking again is the same request. Payload: map of constructor options.
    ``traceparent`` and ``tracestate`` are the session's own W3C trace context, where it is not
    the connection's. ``lenient`` allows steps outside an episode; servers set it for upstream's
    clients and take it from none.
    """

    channel: Int
    session: str
    secret: str
    resume: bool = False
    ack: Int = 0
    payload: Payload | None = None
    timeout: Seconds | None = None
    traceparent: str | None = None
    tracestate: str | None = None
    lenient: bool = False


class Reset(Frame, tag=2):
    """Begin an episode. Payload: map of the environment's own reset options."""

    channel: Int
    seq: Int
    ack: Int = 0
    payload: Payload | None = None
    seed: int | None = None
    episode_id: str | None = None
    timeout: Seconds | None = None


class Step(Frame, tag=3):
    """Take one step. Payload: the action. ``credit`` above 0 asks for partial observations."""

    channel: Int
    seq: Int
    ack: Int
    payload: Payload
    timeout: Seconds | None = None
    credit: Count = 0


class State(Frame, tag=4):
    """Ask for the environment's state; with ``render``, for its picture.

    Needs the capability ``render``.
    """

    channel: Int
    seq: Int
    ack: Int = 0
    timeout: Seconds | None = None
    render: bool = False


class Close(Frame, tag=5):
    """Close the environment and forget the session."""

    channel: Int
    seq: Int
    ack: Int = 0
    timeout: Seconds | None = None


class Cancel(Frame, tag=6):
    """Stop request ``seq`` if it is still running; it is answered all the same."""

    channel: Int
    seq: Int


class Credit(Frame, tag=7):
    """Allow ``units`` more partial observations of the streaming step ``seq``."""

    channel: Int
    seq: Int
    units: Int


class Renew(Frame, tag=8):
    """Sign of life of an idle session; carries an acknowledgement like any request."""

    channel: Int
    ack: Int = 0


class ListTasks(Frame, tag=9):
    """Ask for the environment's tasks: the names of its splits, or a page of the ``split``.

    It asks for the tools that agents may call instead, where ``tools`` is true.

    It is of the connection, so ``channel`` is 0 and ``seq`` any number above 0 that the client has
    no other request for. The page goes from ``start`` to before ``stop``.
    """

    channel: Int
    seq: Int
    split: str | None = None
    start: Count = 0
    stop: Count = 0
    tools: bool = False


class StepColumns(Frame, tag=10):
    """One request of each of many sessions of this connection: a step, or a reset where it says so.

    It acknowledges, for each of its sessions, every request before its own. Needs the capability
    ``columns``; ``protocol.columns`` reads and writes the fields.

    ``channels``: uint32 pairs ``first, count``: ranges, in the order of the rows. ``seqs``: int64
    [1] for all rows, or [rows]. Payload: the actions as a column, one for each row that steps.
    ``resets``: uint8 [rows], 1 where the row begins an episode. ``seeds``: int64, one for each row
    that begins, -1 for none. ``options``: a map, of every row that begins. ``again``: int64 [1] for
    all rows, or [rows]: a row whose step ends its episode may begin the next one in the same
    request, with this seed, -1 for none, and with ``options``.
    """

    channels: Payload
    seqs: Payload
    payload: Payload
    timeout: Seconds | None = None
    resets: Payload | None = None
    seeds: Payload | None = None
    options: Payload | None = None
    reset_timeout: Seconds | None = None
    again: Payload | None = None


class Release(Frame, tag=11):
    """Give back loans of shared memory: their payloads are not used any more.

    ``loans``: uint64 numbers of loans, as ``protocol.blocks`` has them.
    """

    loans: Payload


class Chunk(Frame, tag=16):
    """A piece of the payload of request or reply ``seq``, which follows; in both directions."""

    channel: Int
    seq: Int
    payload: Payload


class Welcome(Frame, tag=32):
    """Answer to Hello.

    ``epoch`` names this run of the server: a different epoch means that every earlier session
    is gone. Payload: map of server version, environment, schema hash, capabilities and limits.
    """

    version: Int
    epoch: str
    payload: Payload | None = None


class Opened(Frame, tag=33):
    """The session is ready. ``seq`` is the highest request number the server has taken."""

    channel: Int
    resumed: bool = False
    seq: Int = 0


class Waiting(Frame, tag=34):
    """The open waits for capacity at ``position`` (1 is next) of ``depth``."""

    channel: Int
    position: Int
    depth: Int


class Begun(Frame, tag=35):
    """Reply to Reset. Payload: the first observation. ``seed`` is the one that was used.

    ``final``: an Observation, encoded on its own: the end of the episode before, where this answers
    the step that ended it.
    """

    channel: Int
    seq: Int
    payload: Payload
    episode_id: str
    seed: int
    reward: float | None = None
    terminated: bool = False
    truncated: bool = False
    info: Payload | None = None
    final: Payload | None = None


class Observation(Frame, tag=36):
    """Reply to Step. Payload: the observation."""

    channel: Int
    seq: Int
    payload: Payload
    reward: float | None = None
    terminated: bool = False
    truncated: bool = False
    info: Payload | None = None


class Partial(Frame, tag=37):
    """One partial observation of a streaming step; ``index`` counts from 0.

    ``whole`` says that the payload is of the declared observation type.
    """

    channel: Int
    seq: Int
    index: Int
    payload: Payload
    whole: bool = False


class StateIs(Frame, tag=38):
    """Reply to State. Payload: what the environment returned; the engine's facts beside it.

    ``rendered``: the payload is a picture, a uint8 array [height, width, channels], or a text.
    """

    channel: Int
    seq: Int
    payload: Payload
    episode_id: str | None = None
    seed: int | None = None
    step_count: Int = 0
    rendered: bool = False


class Closed(Frame, tag=39):
    """The session is gone: reply to Close."""

    channel: Int
    seq: Int


class Failed(Frame, tag=40):
    """A typed error. Channel 0: the connection. Seq 0: the session or its Open.

    Payload: map of details (limits, sizes, context).
    """

    channel: Int
    seq: Int
    code: str
    message: str
    retryable: bool = False
    payload: Payload | None = None


class GoingAway(Frame, tag=41):
    """The server stops in ``grace`` seconds and opens nothing more."""

    reason: str
    grace: Seconds


class TasksListed(Frame, tag=42):
    """Reply to ListTasks. Payload: a map of ``splits``; of ``count`` and ``tasks``; of ``tools``.

    A page may have fewer tasks than were asked for, one at least if there are any.
    """

    channel: Int
    seq: Int
    payload: Payload


class ObservationColumns(Frame, tag=43):
    """Replies to rows of StepColumns; a row that failed is answered by Failed.

    ``channels`` and ``seqs``: as in StepColumns. Payload: the observations as a column.
    ``rewards``: float64 [rows]. ``flags``: uint8 [rows], the sum of 1 terminated, 2 truncated, 4
    the environment gave a reward, 8 the reply to a reset. ``infos``: an array of pairs ``row,
    info``, each info encoded on its own. ``begun``: an array of ``row, episode_id, seed``, of the
    rows with flag 8. Flag 16: the row's step ended an episode and began the next one, of which the
    row tells. ``finals``: an ObservationColumns without channels and numbers, encoded on its own:
    what those steps gave, of the rows with flag 16, in order.
    """

    channels: Payload
    seqs: Payload
    payload: Payload
    rewards: Payload
    flags: Payload
    infos: Payload | None = None
    begun: Payload | None = None
    finals: Payload | None = None


Request = Reset | Step | State | Close
Reply = Begun | Observation | StateIs | Closed | Failed
ClientFrame = (
    Hello
    | Open
    | Reset
    | Step
    | State
    | Close
    | Cancel
    | Credit
    | Renew
    | ListTasks
    | StepColumns
    | Release
    | Chunk
)
ServerFrame = (
    Welcome
    | Opened
    | Waiting
    | Begun
    | Observation
    | Partial
    | StateIs
    | Closed
    | Failed
    | GoingAway
    | TasksListed
    | ObservationColumns
    | Chunk
)

CLIENT_FRAMES: Final[tuple[type[Frame], ...]] = (
    Hello,
    Open,
    Reset,
    Step,
    State,
    Close,
    Cancel,
    Credit,
    Renew,
    ListTasks,
    StepColumns,
    Release,
    Chunk,
)
SERVER_FRAMES: Final[tuple[type[Frame], ...]] = (
    Welcome,
    Opened,
    Waiting,
    Begun,
    Observation,
    Partial,
    StateIs,
    Closed,
    Failed,
    GoingAway,
    TasksListed,
    ObservationColumns,
    Chunk,
)
COLUMN_FRAMES: Final = frozenset({StepColumns, ObservationColumns})
MSGPACK_FRAMES: Final = COLUMN_FRAMES | {Release}
