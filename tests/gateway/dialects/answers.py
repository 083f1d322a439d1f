"""Answers of engines at random, cut into pieces at random; and the SDKs that read them."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from openenv_async.gateway.calls import Answer, Call, Dialect, Piece, ToolCall, ToolDelta
from tests.peers import MODEL_SDKS, ensure_peer

__all__ = ["asked", "cut", "data_of", "random_answer", "read_by_sdk", "stream_of"]

_READER: Final = Path(__file__).with_name("sdk_reader.py")
_WAITING: Final = 120.0
_SIGNS: Final = 'ab {}[]":,\\/\n\té漢😀\u2028'
_ARGUMENTS: Final = ('{"command": "ls"}', "{}", "", '{"a": [1, {"b": "é\\n"}]}', '{"cut": "of')


def asked(dialect: Dialect, headers: Mapping[str, str] | None = None, **fields: Any) -> Call:
    """Return the call that a body of these fields is read into."""
    return dialect.read(json.dumps(fields).encode(), headers or {})


def random_answer(rng: random.Random, *, names: Sequence[str] = ("bash", "read")) -> Answer:
    """Return an answer with any of text, reasoning and tool calls, or none."""

    def words() -> str:
        return "".join(rng.choices(_SIGNS, k=rng.choice((0, 1, 8, 40))))

    calls = [
        ToolCall(id=f"call_{at}", name=rng.choice(names), arguments=rng.choice(_ARGUMENTS))
        for at in range(rng.choice((0, 0, 1, 3)))
    ]
    return Answer(
        text=words(),
        reasoning=words(),
        tool_calls=calls,
        finish_reason="tool_calls" if calls else rng.choice(("stop", "length")),
        prompt_tokens=rng.randint(5, 99),
        completion_tokens=rng.randint(1, 99),
        cached_tokens=rng.choice((None, 5)),
    )


def cut(answer: Answer, rng: random.Random) -> list[Piece]:
    """Return pieces of an answer, in its order, several fields in one now and then.

    The last ones may be missing, as with an engine that answers at once.
    """
    pieces = [Piece(reasoning=part) for part in _parts(answer.reasoning, rng)]
    pieces += [Piece(text=part) for part in _parts(answer.text, rng)]
    for at, call in enumerate(answer.tool_calls):
        first, *rest = _parts(call.arguments, rng) or [""]
        if rng.random() < 0.5:
            first, rest = "", [first, *rest]
        deltas = [ToolDelta(index=at, id=call.id, name=call.name, arguments=first)]
        deltas += [ToolDelta(index=at, arguments=part) for part in rest]
        pieces += [Piece(tool_calls=[delta]) for delta in deltas]
    joined: list[Piece] = []
    for piece in pieces:
        if joined and rng.random() < 0.2:
            before = joined.pop()
            if piece.reasoning and before.text:
                joined.append(before)
            else:
                piece = Piece(
                    text=before.text + piece.text,
                    reasoning=before.reasoning + piece.reasoning,
                    tool_calls=[*before.tool_calls, *piece.tool_calls],
                )
        joined.append(piece)
    if rng.random() < 0.3:
        del joined[rng.randint(0, len(joined)) :]
    return joined


def _parts(text: str, rng: random.Random) -> list[str]:
    parts = []
    while text:
        size = rng.choice((1, 3, 50))
        parts.append(text[:size])
        text = text[size:]
    return parts


def stream_of(
    dialect: Dialect, call: Call, answer: Answer, pieces: Sequence[Piece], *, call_id: str = "s-3"
) -> bytes:
    """Return all events of an answer."""
    writer = dialect.events(call, call_id, 1_700_000_000.5)
    return b"".join([writer.begin(), *map(writer.piece, pieces), writer.end(answer)])


def data_of(stream: bytes) -> list[Any]:
    """Return the data of each event, checked to be spelled as such."""
    assert stream.endswith(b"\n\n")
    found = []
    for event in stream[:-2].split(b"\n\n"):
        lines = event.split(b"\n")
        assert lines[-1].startswith(b"data: ")
        data = lines[-1][6:]
        read: Any = data.decode() if data == b"[DONE]" else json.loads(data)
        if len(lines) == 2:
            assert lines[0] == b"event: " + read["type"].encode()
        else:
            assert len(lines) == 1
        found.append(read)
    return found


def read_by_sdk(cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the account that the vendors' own SDKs give of bodies and streams.

    Args:
        cases: ``dialect``, ``body``, ``is_streamed``, and ``status`` and ``headers`` of an error.
    """
    python = ensure_peer("model-sdks", MODEL_SDKS)
    asked = json.dumps([{**case, "body": case["body"].decode()} for case in cases])
    run = subprocess.run(
        [python, str(_READER)],
        input=asked.encode(),
        capture_output=True,
        timeout=_WAITING,
        check=False,
    )
    assert run.returncode == 0, run.stderr.decode()
    told: list[dict[str, Any]] = json.loads(run.stdout)
    assert len(told) == len(cases)
    return told
