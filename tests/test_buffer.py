"""The buffer: bounded, in order, and nothing gets lost between it and the fold."""

from __future__ import annotations

import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelwatch._types import ABSENT
from modelwatch.buffer import Batch, Buffer, gather, runs
from modelwatch.exceptions import RowsError


def batch_of(size, *, names=("a", "b"), columns=False, predictions=None, timestamps=None, version="1", ignored=False):
    rows = None if columns else [(i, -i) for i in range(size)]
    laid = [list(range(size)), [-i for i in range(size)]] if columns else None
    return Batch(size, names, rows, laid, predictions, None, timestamps, version, ignored)


@given(st.lists(st.one_of(st.integers(0, 6), st.none()), max_size=40))
def test_every_row_waits_was_taken_or_was_refused(steps):
    """What was handed in is what waits, what was taken and what was refused, and never more wait than may."""
    buffer, handed, taken = Buffer(10), 0, 0
    for size in steps:
        if size is None:
            taken += sum(batch.size for batch in buffer.take())
        else:
            handed += size
            fits = buffer.waiting + size <= 10
            assert buffer.append(batch_of(size)) is fits
        assert buffer.waiting <= 10
        assert handed == buffer.waiting + buffer.taken + buffer.dropped
    assert buffer.taken == taken


def test_batches_are_taken_in_order():
    """They come out as they went in, once."""
    buffer = Buffer(100)
    batches = [batch_of(i) for i in range(5)]
    for batch in batches:
        buffer.append(batch)
    assert buffer.take() == batches
    assert buffer.take() == []


def test_memory_is_bounded():
    """Rows that nobody takes cost memory up to the limit, and are counted beyond it."""
    buffer = Buffer(1000)
    for _ in range(1000):
        buffer.append(batch_of(1))
    tracemalloc.start()
    try:
        for _ in range(20_000):
            buffer.append(batch_of(1))
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert (buffer.waiting, buffer.dropped) == (1000, 20_000)
    assert grown < 20_000


def test_threads_lose_nothing():
    """With eight threads that append and one that takes, every row is counted once."""
    buffer, taken, done = Buffer(10**9), [], threading.Event()

    def put():
        for _ in range(2000):
            buffer.append(batch_of(1))

    def take():
        while not done.is_set():
            taken.extend(buffer.take())

    threads = [threading.Thread(target=put) for _ in range(8)]
    taker = threading.Thread(target=take)
    for thread in [*threads, taker]:
        thread.start()
    for thread in threads:
        thread.join()
    done.set()
    taker.join()
    taken.extend(buffer.take())
    assert len(taken) == buffer.added == buffer.taken == 16_000


def test_only_what_is_alike_is_laid_together():
    """A run ends where features, version, fate or the kind of times change; columns are never laid together."""
    batches = [
        batch_of(1),
        batch_of(2),
        batch_of(1, version="2"),
        batch_of(1, version="2", ignored=True),
        batch_of(1, names=("b", "a")),
        batch_of(1, names=("b", "a"), timestamps=[5.0]),
        batch_of(1, columns=True),
        batch_of(1, columns=True),
    ]
    assert [len(run) for run in runs(batches)] == [2, 1, 1, 1, 1, 1, 1]
    assert [batch for run in runs(batches) for batch in run] == batches


def test_columns_of_a_run():
    """Rows become columns in their order; where a batch has no predictions, each of its rows lacks one."""
    group = gather([batch_of(2), batch_of(1, predictions=np.array([7])), batch_of(0)])
    assert (group.size, group.names, list(group.columns)) == (3, ("a", "b"), [[0, 1, 0], [0, -1, 0]])
    assert group.predictions == [ABSENT, ABSENT, 7]
    assert group.confidences is None


def test_a_group_of_columns_is_the_batch():
    """Columns are passed on as they are."""
    batch = batch_of(3, columns=True, predictions=[1, 2, 3])
    group = gather([batch])
    assert group.columns is batch.columns
    assert group.predictions is batch.predictions


def test_empty_rows_have_columns():
    """A batch without rows has a column for each feature all the same."""
    assert list(gather([batch_of(0)]).columns) == [[], []]
    assert list(gather([Batch(2, (), [(), ()], None, None, None, None, "1", False)]).columns) == []


@pytest.mark.parametrize(
    "batch",
    [
        Batch(2, ("a", "b"), [(1, 2), (1,)], None, None, None, None, "1", False),
        Batch(2, ("a", "b"), [(1, 2), (1, 2)], None, [1], None, None, "1", False),
        Batch(1, ("a", "b"), [(1, 2)], None, None, [0.5, 0.6], None, "1", False),
        Batch(1, ("a", "b"), [(1, 2)], None, None, None, [1.0, 2.0], "1", False),
        Batch(3, ("a", "b"), [(1, 2)], None, [1, 2, 3], None, None, "1", False),
    ],
    ids=["ragged", "few predictions", "many confidences", "many timestamps", "wrong size"],
)
def test_what_does_not_fit_is_refused(batch):
    """Features of one group never have different numbers of rows: the sums would not agree."""
    with pytest.raises((ValueError, RowsError)):
        gather([batch])
