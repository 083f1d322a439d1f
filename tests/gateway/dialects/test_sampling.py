"""The tables of fields: each field has one place, and each reason can be read."""

from __future__ import annotations

from itertools import combinations

import pytest

from openenv_async.errors import CallRefused
from openenv_async.gateway.dialects.fields import Fields
from openenv_async.gateway.dialects.sampling import (
    LEFT_OUT,
    NUMBERS,
    PASSED_ON,
    REFUSED,
    read_stop,
)


def test_each_field_has_one_place() -> None:
    for one, other in combinations((NUMBERS, PASSED_ON, set(LEFT_OUT), set(REFUSED)), 2):
        assert not one & other


def test_stop_sequences_are_a_list() -> None:
    assert read_stop(Fields({"stop": "END"})) == ["END"]
    assert read_stop(Fields({"stop": ["a", "b"]})) == ["a", "b"]
    assert read_stop(Fields({"stop_sequences": []}), "stop_sequences") == []
    assert read_stop(Fields({})) == []
    with pytest.raises(CallRefused, match="stop_sequences must be"):
        read_stop(Fields({"stop_sequences": 3}), "stop_sequences")
