"""The part of an answer that is missing at its end."""

from __future__ import annotations

import random

from openenv_async.gateway.calls import Piece, ToolDelta
from openenv_async.gateway.dialects.sent import Sent
from tests.gateway.dialects.answers import cut, random_answer


def test_the_rest_is_what_no_piece_had() -> None:
    rng = random.Random(1)
    for _ in range(300):
        answer = random_answer(rng)
        pieces = cut(answer, rng)
        sent = Sent()
        for piece in pieces:
            sent.text += len(piece.text)
            sent.reasoning += len(piece.reasoning)
            for delta in piece.tool_calls:
                assert sent.add(delta) == bool(delta.id)
        pieces.append(sent.rest(answer))
        assert "".join(piece.text for piece in pieces) == answer.text
        assert "".join(piece.reasoning for piece in pieces) == answer.reasoning
        deltas = [delta for piece in pieces for delta in piece.tool_calls]
        for index, call in enumerate(answer.tool_calls):
            parts = [delta for delta in deltas if delta.index == index]
            assert (parts[0].id, parts[0].name) == (call.id, call.name)
            assert "".join(part.arguments for part in parts) == call.arguments
            assert not any(part.id or part.name for part in parts[1:])


def test_nothing_is_left_of_what_went_whole() -> None:
    sent = Sent()
    sent.add(ToolDelta(index=1, id="c", name="n", arguments="{}"))
    assert sent.arguments == [0, 2]
    assert Sent().rest(random_answer(random.Random(2))) != Piece()
