"""Users' collectors that hang, raise or end their thread: each at its own expense, in few threads."""

from __future__ import annotations

import os
import threading
import time

import pytest

from modelwatch.guard import Guard
from modelwatch.metrics.foreign import MOST_THREADS, Foreign

SOON = 0.3  # seconds that a scrape waits here
NEVER = 3600.0
PATIENCE = 30.0


class Collector:
    """Brings its name, once it is let go; counts how often it was asked."""

    def __init__(self, name="c", go=True, error=None):
        self.name, self.error, self.asked, self.ended = name, error, 0, 0
        self.begun, self.go = threading.Semaphore(0), threading.Event()
        if go:
            self.go.set()

    def collect(self):
        self.asked += 1
        self.begun.release()
        assert self.go.wait(PATIENCE)
        self.ended += 1
        if self.error is not None:
            raise self.error
        return self.name


def names(foreign, *collectors):
    return foreign.ask(collectors, lambda collector: collector.collect())


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "modelwatch-collect"]


def until(found):
    deadline = time.monotonic() + PATIENCE
    while not found():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def guard():
    return Guard()


@pytest.fixture
def let_go():
    """Collectors that are let go when the test ends, so that no thread of theirs is left."""
    collectors = []

    def hanging(name="hanging"):
        collectors.append(Collector(name, go=False))
        return collectors[-1]

    yield hanging
    for collector in collectors:
        collector.go.set()
    until(lambda: not threads())


def test_answers_come_in_the_order_of_the_collectors(guard):
    """What collectors bring is in the order in which they were registered, and the thread that asked is gone."""
    collectors = [Collector(str(number)) for number in range(100)]
    assert names(Foreign(guard, NEVER), *collectors) == [str(number) for number in range(100)]
    until(lambda: not threads())
    assert guard.errors["scrape"] == 0


def test_without_collectors_nothing_is_started(guard, monkeypatch):
    """Who has no collector of his own pays for no thread."""
    monkeypatch.setattr(threading.Thread, "start", None)
    assert names(Foreign(guard, NEVER)) == []


@pytest.mark.swallows
@pytest.mark.parametrize("error", [ZeroDivisionError(), SystemExit(), KeyboardInterrupt(), MemoryError()])
def test_one_that_raises_costs_its_own(guard, error):
    """Whatever one raises, even what ends a thread, the others are asked, and it is counted."""
    assert names(Foreign(guard, NEVER), Collector("a"), Collector(error=error), Collector("b")) == ["a", "b"]
    assert guard.errors["scrape"] == 1


@pytest.mark.swallows
def test_one_that_hangs_is_absent_and_counted(guard, let_go, swallowed_errors):
    """One that hangs does not keep the others, not even those that are asked after it, and is counted by its name."""
    foreign = Foreign(guard, SOON)
    assert names(foreign, Collector("a"), let_go(), Collector("b"), Collector("c")) == ["a", "b", "c"]
    assert guard.errors["scrape"] == 1
    [(stage, error)] = swallowed_errors
    assert stage == "scrape"
    assert "test_foreign.Collector did not answer within 0.3 s" in str(error)


@pytest.mark.swallows
def test_one_that_hangs_is_not_asked_again(guard, let_go):
    """While it hangs it is asked by nobody else and counted at every scrape, which it does not delay any more."""
    foreign, hanging = Foreign(guard, SOON), let_go()
    names(foreign, hanging)
    foreign = foreign_with_patience(foreign)
    for _ in range(50):
        assert names(foreign, hanging, Collector("a")) == ["a"]
    assert hanging.asked == 1
    assert len(threads()) == 1
    assert guard.errors["scrape"] == 51


def foreign_with_patience(foreign):
    """The same, but a scrape that waited would wait for ever."""
    foreign._seconds = NEVER
    return foreign


@pytest.mark.swallows
def test_one_that_recovers_is_shown_again(guard, let_go):
    """Once it has answered it is asked anew; what it brought too late is not shown."""
    foreign, hanging = Foreign(guard, SOON), let_go("old")
    assert names(foreign, hanging) == []
    hanging.go.set()
    until(lambda: not threads())
    hanging.name = "new"
    assert names(foreign_with_patience(foreign), hanging) == ["new"]
    assert guard.errors["scrape"] == 1


@pytest.mark.swallows
def test_threads_are_bounded(guard, let_go):
    """However many hang, and however often, there are at most eight threads; who is not asked is counted."""
    foreign = Foreign(guard, SOON)
    collectors = [let_go() for _ in range(20)]
    for scrape in range(1, 6):
        names(foreign, *collectors, Collector("a"))
        assert len(threads()) <= MOST_THREADS
        assert guard.errors["scrape"] >= 20 * scrape
    assert sum(collector.asked for collector in collectors) == len(threads()) == MOST_THREADS
    for collector in collectors:
        collector.go.set()
    until(lambda: not threads())
    assert sum(collector.asked for collector in collectors) == MOST_THREADS  # the scrapes are over


def test_one_that_is_slow_lets_others_go_ahead(guard):
    """While one takes its time the others are asked by a second thread: all are shown."""
    slow, last = Collector("slow", go=False), Collector("last")
    found = []
    scrape = threading.Thread(target=lambda: found.extend(names(Foreign(guard, NEVER), slow, last)))
    scrape.start()
    until(lambda: last.ended)
    slow.go.set()
    scrape.join(PATIENCE)
    assert found == ["slow", "last"]


@pytest.mark.swallows
def test_without_threads_nobody_is_asked(guard, monkeypatch):
    """Where no thread can be started no collector is asked, for it might hang in a place that others need."""

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    collector = Collector()
    assert names(Foreign(guard, NEVER), collector) == []
    assert collector.asked == 0
    assert guard.errors["scrape"] == 1


@pytest.mark.swallows
def test_one_whose_repr_fails_is_named_all_the_same(guard, let_go, swallowed_errors):
    """A collector is named by its class: its own repr may raise or hang as well."""

    class Rude:
        def __repr__(self):
            raise ZeroDivisionError

        __str__ = __repr__

        def __init__(self):
            self.collect = let_go().collect

    names(Foreign(guard, SOON), Rude())
    assert "Rude did not answer" in str(swallowed_errors[0][1])


@pytest.mark.swallows
def test_collectors_that_call_themselves_equal_are_told_apart(guard, let_go):
    """That one hangs says nothing of another, even if it says that it is equal."""

    class Equal(Collector):
        def __eq__(self, other):
            return True

        def __hash__(self):
            return 1

    hanging = let_go()
    hanging.__class__ = Equal
    foreign = Foreign(guard, SOON)
    assert names(foreign, hanging, Equal("a")) == ["a"]
    assert names(foreign_with_patience(foreign), Equal("b"), hanging) == ["b"]


@pytest.mark.swallows
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_fork_leaves_nobody_hanging(guard, let_go):
    """A child that is forked while a collector hangs, and the lock is held, asks it anew, in a thread of its own."""
    foreign, hanging = Foreign(guard, SOON), let_go("again")
    names(foreign, hanging)
    with foreign._changed:
        child = os.fork()
        if child == 0:  # pragma: no cover - another process
            code = 1
            try:
                foreign.forked()
                hanging.go.set()
                code = 0 if names(foreign_with_patience(foreign), hanging) == ["again"] else 2
            finally:
                os._exit(code)
    statuses = []
    until(lambda: statuses.append(os.waitpid(child, os.WNOHANG)) or statuses[-1][0])
    assert os.waitstatus_to_exitcode(statuses[-1][1]) == 0
