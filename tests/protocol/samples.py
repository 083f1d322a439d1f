"""The golden samples and the tables of ``docs/protocol.md``.

``python -m tests.protocol.samples`` writes both again. It is run when the protocol grows, and
its diff is read: a sample that changes breaks every other implementation.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any, Final, cast

import msgspec
import numpy as np

from openenv_async import errors
from openenv_async.models import PayloadCodec
from openenv_async.protocol.blocks import pack_loans
from openenv_async.protocol.codec import JsonCodec, MsgpackCodec
from openenv_async.protocol.columns import pack_channels, pack_numbers, stacked
from openenv_async.protocol.frames import (
    CLIENT_FRAMES,
    MSGPACK_FRAMES,
    PAYLOAD_FIELDS,
    PROTOCOL_VERSION,
    SERVER_FRAMES,
    Begun,
    Cancel,
    Chunk,
    Close,
    Closed,
    Credit,
    Failed,
    Frame,
    GoingAway,
    Hello,
    ListTasks,
    Observation,
    ObservationColumns,
    Open,
    Opened,
    Partial,
    Release,
    Renew,
    Reset,
    State,
    StateIs,
    Step,
    StepColumns,
    TasksListed,
    Waiting,
    Welcome,
)

ROOT: Final = Path(__file__).resolve().parents[2]
GOLDEN: Final = Path(__file__).parent / "golden"
DOC: Final = ROOT / "docs" / "protocol.md"

ANY: Final[dict[str, PayloadCodec[Any]]] = {
    "msgpack": PayloadCodec(Any, "msgpack"),
    "json": PayloadCodec(Any, "json"),
}
SESSION: Final = "00112233445566778899aabbccddeeff"
SECRET: Final = "ffeeddccbbaa99887766554433221100"

# Name -> who sends it, what it shows, the frames with payloads as values.
SAMPLES: Final[dict[str, tuple[str, str, list[Frame]]]] = {
    "hello": (
        "client",
        "The first frame of a connection.",
        [
            Hello(
                PROTOCOL_VERSION,
                {"client": "example/1.0", "max_message_size": 67108864},  # type: ignore[arg-type]
            )
        ],
    ),
    "welcome": (
        "server",
        "The answer to Hello.",
        [
            Welcome(
                PROTOCOL_VERSION,
                "9f3c1a2b4d5e6f70",
                {  # type: ignore[arg-type]
                    "server": "openenv_async/0.1.0",
                    "environment": "EchoEnvironment",
                    "schema_hash": "0123456789abcdef",
                    "capabilities": ["cancel", "stream"],
                    "timeouts": {"step": 60.0, "idle": None, "lease": 180.0, "resume": 60.0},
                    "max_message_size": 67108864,
                },
            )
        ],
    ),
    "open": (
        "client",
        "Open a session on channel 1, with one constructor option and 60 s to build it.",
        [Open(1, SESSION, SECRET, False, 0, {"level": 3}, 60.0)],  # type: ignore[arg-type]
    ),
    "resume": (
        "client",
        "Resume it on another connection; the reply to request 7 is the last one held.",
        [Open(4, SESSION, SECRET, True, 7)],
    ),
    "opened": ("server", "A new session, then a resumed one.", [Opened(1), Opened(4, True, 9)]),
    "waiting": ("server", "Second of three that wait for capacity.", [Waiting(1, 2, 3)]),
    "reset": (
        "client",
        "Reset with a seed, an option and a deadline; then with nothing of the kind.",
        [
            Reset(1, 1, 0, {"difficulty": "hard"}, 42, "episode-7", 30.0),  # type: ignore[arg-type]
            Reset(2, 1),
        ],
    ),
    "begun": (
        "server",
        "The first observation. The environment gave no reward, which is nil and not 0.",
        [
            Begun(1, 1, {"text": "ready"}, "episode-7", 42)  # type: ignore[arg-type]
        ],
    ),
    "step": (
        "client",
        "Request 2 acknowledges reply 1; then one with a deadline and credit for 8 partials.",
        [
            Step(1, 2, 1, {"message": "hi"}),  # type: ignore[arg-type]
            Step(2, 2, 1, {"message": "hi"}, 5.0, 8),  # type: ignore[arg-type]
        ],
    ),
    "observation": (
        "server",
        "A reward and info; then the end of an episode.",
        [
            Observation(1, 2, {"text": "hi"}, 1.5, False, False, {"tries": 1}),  # type: ignore[arg-type]
            Observation(2, 9, None, 0.0, True, False),  # type: ignore[arg-type]
        ],
    ),
    "rewards": (
        "server",
        "Rewards that JSON has no numbers for: not a number, and infinite ones.",
        [
            Observation(1, 2, {"text": "hi"}, math.nan),  # type: ignore[arg-type]
            Observation(1, 3, {"text": "hi"}, math.inf),  # type: ignore[arg-type]
            Begun(2, 1, {"text": "ready"}, "episode-8", 42, -math.inf),  # type: ignore[arg-type]
        ],
    ),
    "partial": (
        "server",
        "Two partial observations of request 2, then the final one.",
        [
            Partial(2, 2, 0, "h"),  # type: ignore[arg-type]
            Partial(2, 2, 1, {"text": "hi"}, True),  # type: ignore[arg-type]
            Observation(2, 2, {"text": "hi!"}, 1.0),  # type: ignore[arg-type]
        ],
    ),
    "chunk": (
        "client",
        "The payload of request 2 in two pieces (msgpack only; the JSON line shows the frames).",
        [Chunk(1, 2, {"message": "a long"}), Chunk(1, 2, [" ", "text"])],  # type: ignore[arg-type]
    ),
    "credit": ("client", "Four more partials of request 2 may come.", [Credit(2, 2, 4)]),
    "cancel": ("client", "Stop request 2.", [Cancel(2, 2)]),
    "render": ("client", "Ask for the picture.", [State(1, 4, 3, None, True)]),
    "rendered": (
        "server",
        "The picture, here a text.",
        [StateIs(1, 4, "X..\n.O.", "episode-7", 42, 1, True)],  # type: ignore[arg-type]
    ),
    "state": ("client", "Ask for the state.", [State(1, 3, 2)]),
    "state_is": (
        "server",
        "The state, and what the engine knows of the episode.",
        [StateIs(1, 3, {"board": [0, 1, 2]}, "episode-7", 42, 1)],  # type: ignore[arg-type]
    ),
    "renew": (
        "client",
        "A sign of life of the connection, and one of a session.",
        [
            Renew(0),
            Renew(1, 3),
        ],
    ),
    "close": ("client", "Close the session of channel 1.", [Close(1, 4, 3)]),
    "closed": ("server", "It is closed.", [Closed(1, 4)]),
    "failed": (
        "server",
        "One call failed; a session ended by itself; the connection as a whole.",
        [
            Failed(1, 5, "episode_ended", "step() after the episode ended: call reset() first"),
            Failed(
                2,
                0,
                "session_closed",
                "the session was idle",
                False,
                {"field": "idle", "value": 1800.0},  # type: ignore[arg-type]
            ),
            Failed(0, 0, "protocol_error", "a message must be an array of frames"),
        ],
    ),
    "going_away": ("server", "The server stops in ten seconds.", [GoingAway("shutdown", 10.0)]),
    "list_tasks": (
        "client",
        "Ask which splits there are, then for the first hundred tasks of one; and for the tools.",
        [ListTasks(0, 1), ListTasks(0, 2, "train", 0, 100), ListTasks(0, 3, tools=True)],
    ),
    "tasks_listed": (
        "server",
        "The splits; a page with one task, though two were asked for; then no such split.",
        [
            TasksListed(0, 1, {"splits": ["train"]}),  # type: ignore[arg-type]
            TasksListed(
                0,
                2,
                {  # type: ignore[arg-type]
                    "count": 2,
                    "tasks": [{"id": "sum-1", "index": 0, "data": {"question": "1 + 1?"}}],
                },
            ),
            Failed(0, 3, "invalid_option", "Sums has no split 'dev': it has train"),
        ],
    ),
    "batch": (
        "client",
        "One message for three sessions.",
        [
            Step(1, 3, 2, {"move": 1}),  # type: ignore[arg-type]
            Step(2, 8, 7, {"move": -200}),  # type: ignore[arg-type]
            Step(300, 70000, 69999, {"move": 3}),  # type: ignore[arg-type]
        ],
    ),
    "step_columns": (
        "client",
        "Sessions 1, 2, 3 and 7: the third begins an episode with the seed 5, the others step.",
        [
            StepColumns(
                pack_channels([1, 2, 3, 7]),
                pack_numbers([4, 4, 9, 4]),
                stacked(np.array([0, 1, 1], "<i8")),
                60.0,
                bytes([0, 0, 1, 0]),
                np.array([5], "<i8").tobytes(),
                msgspec.msgpack.encode({"level": 2}),
                60.0,
            )
        ],
    ),
    "observation_columns": (
        "server",
        "Sessions 1, 2 and 3: the first was given no reward, the second's episode was terminated"
        " and has an info, the third is the reply to a reset. Session 7 failed.",
        [
            ObservationColumns(
                pack_channels([1, 2, 3]),
                pack_numbers([4, 4, 9]),
                stacked(np.array([[0, 1], [2, -1], [0, 0]], "<f4")),
                np.array([0.0, 1.5, 0.0], "<f8").tobytes(),
                bytes([0, 5, 8]),
                msgspec.msgpack.encode([[1, msgspec.msgpack.encode({"won": True})]]),
                msgspec.msgpack.encode([[2, "0011223344556677", 5]]),
            ),
            Failed(7, 4, "episode_ended", "step() after the episode ended: call reset() first"),
        ],
    ),
    "step_columns_again": (
        "client",
        "Sessions 1 to 3 are stepped; one whose episode ends begins the next one with no seed.",
        [
            StepColumns(
                pack_channels([1, 2, 3]),
                pack_numbers([5, 5, 5]),
                stacked(np.array([0, 1, 1], "<i8")),
                60.0,
                None,
                None,
                msgspec.msgpack.encode({"level": 2}),
                60.0,
                pack_numbers([-1, -1, -1]),
            )
        ],
    ),
    "observation_columns_again": (
        "server",
        "The second session's episode was terminated with a reward of 2 and an info, and the next"
        " one begun: its row tells of that.",
        [
            ObservationColumns(
                pack_channels([1, 2, 3]),
                pack_numbers([5, 5, 5]),
                stacked(np.array([[0, 1], [0, 0], [3, 1]], "<f4")),
                np.array([1.0, 0.0, 1.0], "<f8").tobytes(),
                bytes([4, 24, 4]),
                None,
                msgspec.msgpack.encode([[1, "8899aabbccddeeff", 6]]),
                msgspec.msgpack.encode(
                    ObservationColumns(
                        b"",
                        b"",
                        stacked(np.array([[2, -1]], "<f4")),
                        np.array([2.0], "<f8").tobytes(),
                        bytes([5]),
                        msgspec.msgpack.encode([[0, msgspec.msgpack.encode({"won": True})]]),
                    )
                ),
            )
        ],
    ),
    "release": (
        "client",
        "Loans 7 and 260 of shared memory are given back, and session 1 is stepped.",
        [Release(pack_loans([7, 260])), Step(1, 3, 2, {"move": 1})],  # type: ignore[arg-type]
    ),
    "array": (
        "server",
        "Arrays and NumPy scalars in a payload: float32 [2, 2], uint8 [3], float64, and a NaN.",
        [
            Observation(
                1,
                2,
                {  # type: ignore[arg-type]
                    "board": np.array([[0, 1], [2, -1]], "<f4"),
                    "pixels": np.array([0, 127, 255], "|u1"),
                    "score": np.float64(0.5),
                    "noise": float("nan"),
                },
                None,
            )
        ],
    ),
}


def encoded(frames: list[Frame], format: str) -> bytes:
    """A message, the payloads encoded by the payload codec of the format."""
    made = []
    for frame in frames:
        if type(frame) in MSGPACK_FRAMES:
            made.append(frame)
            continue
        fields = {
            field.name: getattr(frame, field.name) for field in msgspec.structs.fields(type(frame))
        }
        for field in msgspec.structs.fields(type(frame)):
            name = field.name
            if name in PAYLOAD_FIELDS and (fields[name] is not None or field.required):
                fields[name] = ANY[format].encode(fields[name])
        made.append(type(frame)(**fields))
    codec: Any = (MsgpackCodec if format == "msgpack" else JsonCodec)("server", 1 << 30)
    return cast(bytes, codec.encode(made))


def is_columnar(frames: list[Frame]) -> bool:
    """Return whether JSON has no such frames."""
    return any(type(frame) in MSGPACK_FRAMES for frame in frames)


def sample(name: str) -> dict[str, Any]:
    """What a golden file holds."""
    sender, text, frames = SAMPLES[name]
    return {
        "name": name,
        "sender": sender,
        "shows": text,
        "frames": [type(frame).__name__ for frame in frames],
        "json": "" if is_columnar(frames) else encoded(frames, "json").decode(),
        "msgpack": encoded(frames, "msgpack").hex(),
    }


# -- what the document quotes -------------------------------------------------------------


def frame_table(classes: tuple[type[Frame], ...]) -> str:
    rows = ["| kind | frame | fields, in order | ", "|---|---|---|"]
    rows[0] = rows[0].rstrip()
    for cls in classes:
        fields = []
        for field in msgspec.structs.fields(cls):
            hint = cls.__annotations__[field.name].replace("Payload", "payload")
            hint = hint.replace(" | None", " or nil").replace("Int", "int")
            hint = hint.replace("Count", "count").replace("Seconds", "seconds")
            default = "" if field.required else f" = {_literal(field.default)}"
            fields.append(f"`{field.name}`: {hint}{default}")
        rows.append(f"| {cls.__struct_config__.tag} | {cls.__name__} | {', '.join(fields)} |")
    return "\n".join(rows)


def _literal(value: Any) -> str:
    return "nil" if value is None else repr(value).lower()


def error_classes() -> list[type[errors.OpenEnvError]]:
    """Every error that has a code, in the order of the source."""
    return [cls for cls in errors._REGISTRY.values() if cls.__module__ == errors.__name__]


def error_table() -> str:
    rows = [
        "| code | class | HTTP status | upstream code | retryable | meaning |",
        "|---|---|---|---|---|---|",
    ]
    for cls in error_classes():
        if not cls.__module__.startswith("openenv_async"):
            continue
        meaning = (cls.__doc__ or "").strip().splitlines()[0]
        rows.append(
            f"| `{cls.code}` | {cls.__name__} | {cls.http_status} | `{cls.upstream_code}` |"
            f" {'yes' if cls.retryable_by_default else 'no'} | {meaning} |"
        )
    return "\n".join(rows)


def sample_blocks() -> str:
    blocks = []
    for name in SAMPLES:
        golden = json.loads((GOLDEN / f"{name}.json").read_text())
        octets = golden["msgpack"]
        lines = [octets[i : i + 96] for i in range(0, len(octets), 96)]
        blocks.append(
            f"**{name}** (from the {golden['sender']}). {golden['shows']}\n\n"
            "```text\n" + "\n".join([golden["json"], *lines]).lstrip() + "\n```"
        )
    return "\n\n".join(blocks)


SECTIONS: Final = {
    "client frames": lambda: frame_table(CLIENT_FRAMES),
    "server frames": lambda: frame_table(SERVER_FRAMES),
    "errors": error_table,
    "samples": sample_blocks,
}


def section(document: str, name: str) -> str:
    """What stands between the marks of a generated section."""
    found = re.search(rf"<!-- begin {name} -->\n(.*?)\n<!-- end {name} -->", document, re.DOTALL)
    if found is None:
        raise LookupError(f"{DOC.name} has no section {name!r}")
    return found.group(1)


def main() -> None:
    """Write the golden files and the generated sections."""
    GOLDEN.mkdir(exist_ok=True)
    for name in SAMPLES:
        text = json.dumps(sample(name), indent=2, ensure_ascii=False) + "\n"
        (GOLDEN / f"{name}.json").write_text(text)
    document = DOC.read_text()
    for name, make in SECTIONS.items():
        old = section(document, name)
        document = document.replace(
            f"<!-- begin {name} -->\n{old}\n<!-- end {name} -->",
            f"<!-- begin {name} -->\n{make()}\n<!-- end {name} -->",
        )
    DOC.write_text(document)


if __name__ == "__main__":
    main()
