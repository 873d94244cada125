"""The mailbox: everybody gets everything once, in order, or is told what was refused or missed; nobody hogs it."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent.mailbox import VALUES, Mailbox, Reader, Records, Writer, records


class Clock:
    """A clock that stands still until told."""

    def __init__(self) -> None:
        self.at = 0.0

    def __call__(self) -> float:
        return self.at


def _batch(first: int, n: int, *, ttl: float = 1e6, at: float = 0.0) -> Records:
    return records(1, np.arange(first, first + n, dtype=np.float32)[:, None], ttl=ttl, at=at)


def _firsts(found: Records) -> list[int]:
    return [int(v) for v in found["values"][:, 0]]


def test_every_reader_gets_everything_in_order() -> None:
    box = Mailbox(100)
    first, second, writer = box.reader("a"), box.reader("b"), box.writer("w")
    assert writer.push(_batch(0, 60)) == 60
    assert _firsts(first.pop(40).records) == list(range(40))
    assert writer.push(_batch(60, 40)) == 40
    assert _firsts(first.pop().records) == list(range(40, 100))
    assert _firsts(second.pop().records) == list(range(100))
    counts = box.counts()
    assert (counts.pushed, counts.popped, counts.refused, counts.missed) == (100, 200, 0, 0)


def test_full_is_said_until_the_slowest_has_read() -> None:
    box = Mailbox(10)
    quick, slow, writer = box.reader("a"), box.reader("b"), box.writer("w")
    assert writer.push(_batch(0, 16)) == 10
    quick.pop()
    assert writer.push(_batch(10, 1)) == 0
    assert _firsts(slow.pop(4).records) == [0, 1, 2, 3]
    assert writer.push(_batch(10, 9)) == 4
    assert _firsts(slow.pop().records) == [4, 5, 6, 7, 8, 9, 10, 11, 12, 13]
    assert box.counts().refused == 6 + 1 + 5


def test_a_reader_that_never_comes_holds_nobody_up_for_longer_than_a_record_lives() -> None:
    clock = Clock()
    box = Mailbox(4, clock=clock)
    gone, writer = box.reader("gone"), box.writer("w")
    assert writer.push(_batch(0, 4, ttl=2.0)) == 4
    clock.at = 1.9
    assert writer.push(_batch(4, 1)) == 0
    clock.at = 2.0
    assert writer.push(_batch(4, 3, at=2.0)) == 3
    found = gone.pop()
    assert (_firsts(found.records), found.missed) == ([4, 5, 6], 4)


def test_what_ran_out_is_not_read_though_it_still_lies_there() -> None:
    clock = Clock()
    box = Mailbox(10, clock=clock)
    reader, writer = box.reader("r"), box.writer("w")
    writer.push(_batch(0, 2, ttl=1.0))
    writer.push(_batch(2, 2, ttl=9.0))
    clock.at = 5.0
    found = reader.pop()
    assert (_firsts(found.records), found.missed) == ([2, 3], 2)


def test_one_that_never_stops_leaves_room_for_the_others() -> None:
    box = Mailbox(100)
    box.reader("r")
    greedy, modest = box.writer("greedy"), box.writer("modest")
    for n in range(50):
        greedy.push(_batch(n, 20))
    assert modest.push(_batch(0, 50)) == 50


def test_a_reader_hears_what_comes_after_it_and_none_is_left_when_it_closes() -> None:
    box = Mailbox(4)
    writer = box.writer("w")
    writer.push(_batch(0, 3))
    with box.reader("late") as late:
        writer.push(_batch(3, 1))
        assert _firsts(late.pop().records) == [3]
    assert writer.push(_batch(0, 4)) == 4
    assert writer.push(_batch(0, 4)) == 4, "nobody reads: nothing needs to be kept"


def test_waiting_ends_when_something_comes() -> None:
    box = Mailbox(4)
    reader, writer = box.reader("r"), box.writer("w")
    assert len(reader.wait(0.01).records) == 0
    threading.Timer(0.05, lambda: writer.tell(3, 1.0, 2.0, ttl=5.0)).start()
    found = reader.wait(10).records
    assert (found["kind"].tolist(), found["size"].tolist()) == ([3], [2])


def test_threads_lose_nothing() -> None:
    box, writers, each = Mailbox(2048), 4, 4000
    readers = [box.reader(str(n)) for n in range(4)]
    ends = [box.writer(str(n)) for n in range(writers)]
    got: list[list[tuple[int, int]]] = [[] for _ in readers]

    def write(end: Writer) -> None:
        sent = 0
        while sent < each:
            sent += end.push(_batch(sent, min(100, each - sent)))

    def read(reader: Reader, into: list[tuple[int, int]]) -> None:
        while len(into) < writers * each:
            found = reader.wait(5).records
            into += zip(found["writer"].tolist(), _firsts(found), strict=True)

    threads = [threading.Thread(target=write, args=(e,)) for e in ends]
    threads += [threading.Thread(target=read, args=pair) for pair in zip(readers, got, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for one in got:
        for w in range(writers):
            assert [n for of, n in one if of == w] == list(range(each))


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        records(1, [[0.0] * (VALUES + 1)], ttl=1, at=0)
    with pytest.raises(ValueError, match="live"):
        records(1, [[0.0]], ttl=0, at=0)
    with pytest.raises(ValueError, match="room"):
        Mailbox(0)
    box = Mailbox(1)
    box.writer("a")
    with pytest.raises(ValueError, match="share"):
        box.writer("b")


class Laws(RuleBasedStateMachine):
    """Beside a model that keeps everything: what a reader gets and is told it missed is all that was pushed."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.box = Mailbox(12, clock=self.clock)
        self.writers = [self.box.writer("a"), self.box.writer("b"), self.box.writer("c")]
        self.readers: dict[Reader, tuple[int, list[int], int]] = {}
        """From where on, what it got, and how many it missed."""
        self.all: list[tuple[int, float]] = []
        self.offered = 0

    @rule(writer=st.integers(0, 2), n=st.integers(1, 9), ttl=st.sampled_from([1.0, 3.0, 50.0]))
    def push(self, writer: int, n: int, ttl: float) -> None:
        taken = self.writers[writer].push(_batch(len(self.all), n, ttl=ttl, at=self.clock.at))
        self.all += [(len(self.all) + i, self.clock.at + ttl) for i in range(taken)]
        self.offered += n

    @rule(seconds=st.sampled_from([0.5, 2.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.clock.at += seconds

    @precondition(lambda self: len(self.readers) < 3)
    @rule()
    def subscribe(self) -> None:
        self.readers[self.box.reader("r")] = (len(self.all), [], 0)

    @precondition(lambda self: self.readers)
    @rule(data=st.data(), most=st.integers(1, 20))
    def pop(self, data: st.DataObject, most: int) -> None:
        reader = data.draw(st.sampled_from(list(self.readers)))
        start, got, missed = self.readers[reader]
        found = reader.pop(most)
        for n in _firsts(found.records):
            assert self.all[n][1] > self.clock.at, "it had run out"
        self.readers[reader] = (start, got + _firsts(found.records), missed + found.missed)

    @precondition(lambda self: self.readers)
    @rule()
    def unsubscribe(self) -> None:
        reader = next(iter(self.readers))
        del self.readers[reader]
        reader.close()

    @invariant()
    def nothing_is_lost_unsaid(self) -> None:
        counts = self.box.counts()
        assert counts.pushed == len(self.all)
        assert counts.pushed + counts.refused == self.offered
        assert counts.waiting <= 12
        for reader, (start, got, missed) in self.readers.items():
            assert got == sorted(set(got)), "in order, once each"
            assert len(got) + missed == reader.at - start


TestLaws = Laws.TestCase
TestLaws.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
