"""The blocks of shared memory: what is lent stays as it is, and what came back is used again."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from openenv_async.errors import ProtocolError
from openenv_async.protocol.blocks import (
    LEAST_SHARED,
    REFERENCE_SIZE,
    BlockTable,
    Lender,
    is_reference,
    pack_loans,
    read_reference,
    unpack_loans,
)

SIZE = 1 << 16


class Lending(RuleBasedStateMachine):
    """A sender that writes payloads, keeps and lends them, and a receiver that reads them."""

    kept: Bundle[Any] = Bundle("kept")
    lent: Bundle[Any] = Bundle("lent")

    def __init__(self) -> None:
        super().__init__()
        self.memory = memoryview(bytearray(SIZE))
        self.lender = Lender(self.memory)
        self.written: dict[int, bytes] = {}
        self.out: dict[int, tuple[int, int, bytes]] = {}
        self.mine: dict[int, tuple[memoryview, bytes]] = {}
        self.count = 0

    @rule(target=kept, size=st.integers(1, SIZE // 3), before=st.integers(0, 100))
    def place(self, size: int, before: int) -> int:
        payload = self.lender.place(size, before)
        self.count += 1
        if payload is None:
            return 0
        content = bytes([self.count % 251]) * size
        payload[:] = content
        self.mine[self.count] = (payload, content)
        return self.count

    @rule(target=lent, number=kept)
    def lend(self, number: int) -> int:
        if number not in self.mine:
            return 0
        payload, content = self.mine[number]
        return self.note(self.lender.refer(payload), content)

    @rule(target=lent, size=st.integers(1, SIZE // 2))
    def lend_copy(self, size: int) -> int:
        self.count += 1
        content = bytes([self.count % 251]) * size
        return self.note(self.lender.refer(content), content)

    def note(self, reference: bytes | None, content: bytes) -> int:
        if reference is None:
            return 0
        assert is_reference(reference)
        loan, offset, length = read_reference(reference, SIZE)
        assert loan not in self.out
        self.out[loan] = (offset, length, content)
        return loan

    @rule(number=consumes(kept))
    def drop(self, number: int) -> None:
        self.mine.pop(number, None)

    @rule(loan=consumes(lent))
    def give_back(self, loan: int) -> None:
        if self.out.pop(loan, None) is None:
            with pytest.raises(ProtocolError, match="not out"):
                self.lender.give_back([loan])
        else:
            self.lender.give_back([loan])

    @invariant()
    def what_is_lent_or_kept_stays_as_it_is(self) -> None:
        for offset, length, content in self.out.values():
            assert self.memory[offset : offset + length] == content
        for payload, content in self.mine.values():
            assert payload == content

    @invariant()
    def every_loan_is_counted(self) -> None:
        assert self.lender.loans == len(self.out)

    def teardown(self) -> None:
        self.mine.clear()
        self.lender.give_back(list(self.out))
        self.lender.give_back([])
        assert self.lender.table.free == SIZE
        assert self.lender.place(SIZE - SIZE // 16) is not None  # all of it in one piece again


TestLending = Lending.TestCase


def test_a_slot_that_came_back_is_the_next_to_be_used() -> None:
    lender = Lender(memoryview(bytearray(SIZE)))
    first = read_reference(lender.refer(b"a" * 5000) or b"", SIZE)
    lender.give_back([first[0]])
    again = read_reference(lender.refer(b"b" * 5001) or b"", SIZE)  # of about the same size
    assert again[1] == first[1]
    assert again[0] != first[0]


def test_a_payload_that_is_kept_is_not_used_again_when_its_loan_comes_back() -> None:
    lender = Lender(memoryview(bytearray(SIZE)))
    kept = lender.place(5000)
    assert kept is not None
    kept[:] = b"a" * 5000
    loan, offset, _ = read_reference(lender.refer(kept) or b"", SIZE)
    lender.give_back([loan])
    assert read_reference(lender.refer(b"b" * 5000) or b"", SIZE)[1] != offset
    assert kept == b"a" * 5000
    del kept
    assert read_reference(lender.refer(b"c" * 5000) or b"", SIZE)[1] == offset


def test_each_reference_is_a_loan_of_its_own() -> None:
    lender = Lender(memoryview(bytearray(SIZE)))
    kept = lender.place(5000)
    assert kept is not None
    first, second = (read_reference(lender.refer(kept) or b"", SIZE)[0] for _ in range(2))
    del kept
    lender.give_back([first])
    assert lender.table.free < SIZE
    lender.give_back([second])
    assert lender.table.free == SIZE


def test_the_elements_of_an_array_are_aligned() -> None:
    lender = Lender(memoryview(bytearray(SIZE)))
    for before in (0, 1, 33, 64, 65):
        payload = lender.place(9000, before)
        assert payload is not None
        _, offset, _ = read_reference(lender.refer(payload) or b"", SIZE)
        assert (offset + before) % 64 == 0


def test_there_is_no_room_and_then_there_is() -> None:
    lender = Lender(memoryview(bytearray(SIZE)))
    loans = []
    while (reference := lender.refer(b"x" * 8000)) is not None:
        loans.append(read_reference(reference, SIZE)[0])
    assert len(loans) == SIZE // 8192
    assert lender.place(8000) is None
    lender.give_back(loans[:2])
    assert lender.place(16000) is not None  # where two small ones lay side by side
    assert BlockTable(0).take(1) is None


@pytest.mark.parametrize(
    ("offset", "length"),
    [(0, SIZE + 1), (SIZE, 1), (SIZE + 1, 0), (2**64 - 1, 2), (1, 2**64 - 1), (2**63, 2**63)],
)
def test_a_place_outside_the_segment_is_refused(offset: int, length: int) -> None:
    forged = b"\xc1" + b"".join(n.to_bytes(8, "little") for n in (1, offset, length))
    assert is_reference(forged)
    with pytest.raises(ProtocolError, match="not inside the shared memory"):
        read_reference(forged, SIZE)


def test_no_message_pack_object_is_a_reference() -> None:
    assert not is_reference(b"\xc1" * (REFERENCE_SIZE - 1))
    assert not is_reference(b"\xc0" * REFERENCE_SIZE)
    assert not is_reference(memoryview(b"\xc1" * REFERENCE_SIZE))


def test_loans_travel_as_numbers_of_64_bits() -> None:
    assert list(unpack_loans(pack_loans([1, 2**64 - 1]))) == [1, 2**64 - 1]
    with pytest.raises(ProtocolError, match="8 bytes"):
        unpack_loans(b"\1\2\3")


@pytest.mark.parametrize("loans", [[7], [1, 1], [0], [2**64 - 1]])
def test_what_is_not_out_cannot_be_given_back(loans: list[int]) -> None:
    lender = Lender(memoryview(bytearray(SIZE)))
    lender.refer(b"x" * LEAST_SHARED)
    with pytest.raises(ProtocolError, match="not out"):
        lender.give_back(loans)
    lender.refer(b"y" * LEAST_SHARED)
    assert lender.loans == (1 if 1 in loans else 2)


def test_threads_that_write_at_once_get_slots_of_their_own() -> None:
    lender = Lender(memoryview(bytearray(1 << 20)))
    wrong: list[int] = []
    barrier = threading.Barrier(4)

    def write(mark: int) -> None:
        barrier.wait()
        for _ in range(300):
            payload = lender.place(9000)
            if payload is None:
                continue
            payload[:] = bytes([mark]) * 9000
            if payload != bytes([mark]) * 9000:
                wrong.append(mark)

    threads = [threading.Thread(target=write, args=(mark,)) for mark in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    lender.give_back([])  # its own thread counts what the others dropped
    assert lender.table.free == 1 << 20


def test_a_lender_that_is_closed_lends_nothing_and_spoils_nothing() -> None:
    memory = bytearray(SIZE)
    lender = Lender(memoryview(memory))
    kept = lender.place(5000)
    assert kept is not None
    kept[:] = b"a" * 5000
    loan = read_reference(lender.refer(kept) or b"", SIZE)[0]
    lender.close()
    assert lender.place(5000) is None
    assert lender.refer(b"b" * 5000) is None
    lender.give_back([loan])
    assert kept == b"a" * 5000
    del kept
    lender.give_back([])
    memory.append(0)  # nobody looks at it any more


class Preempted(dict[int, Any]):
    """The kept payloads, with another thread that runs whenever the lender has looked at one."""

    def __init__(self, lender: Lender) -> None:
        super().__init__()
        self.lender = lender
        self.payloads: list[memoryview | None] = []
        self.is_done = False

    def _other(self, key: int) -> None:
        if not self.is_done:
            self.is_done = True
            while not self.payloads or id(self.payloads[-1]) != key:
                assert len(self.payloads) < 500, "no payload got the address"
                self.payloads.append(self.lender.place(1))

    def get(self, key: int, default: Any = None) -> Any:
        found = super().get(key, default)
        self._other(key)
        return found

    def pop(self, key: int, default: Any = None) -> Any:
        found = super().pop(key, default)
        self._other(key)
        return found


def test_a_payload_at_the_address_of_one_that_is_gone_is_not_forgotten() -> None:
    lender = Lender(memoryview(bytearray(SIZE)))
    payload = lender.place(1)
    kept = Preempted(lender)
    kept.update(lender._kept)
    lender._kept = kept
    del payload
    lender._settle()
    assert kept.is_done
    assert len(kept) == len(kept.payloads)
    kept.payloads.clear()
    lender._settle()
    assert not kept
    assert lender.table.free == SIZE
