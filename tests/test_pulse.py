"""The background thread: it comes with the first row, works within a tick, and goes with the last monitor."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading

import numpy as np
import pytest

import modelwatch.engine
from modelwatch.engine import FOLD_ROWS, Engine
from modelwatch.files import ReferenceProfile
from modelwatch.monitor import Monitor
from modelwatch.pulse import Pulse

PATIENCE = 30  # seconds after which what has to come is given up
FOREVER = 3600.0


class Ticked:
    """Counts its ticks, and lets a test wait for them."""

    def __init__(self):
        self.ticks = threading.Semaphore(0)
        self.forks = 0

    def tick(self):
        self.ticks.release()

    def forked(self):
        self.forks += 1

    def wait(self, ticks=1):
        return all(self.ticks.acquire(timeout=PATIENCE) for _ in range(ticks))


def threads():
    """The background threads that live now."""
    return {thread for thread in threading.enumerate() if thread.name == "modelwatch"}


@pytest.fixture
def started():
    """A function that gives the background threads begun since the test did."""
    before = threads()
    return lambda: threads() - before


def ends(found):
    for thread in found:
        thread.join(PATIENCE)
    return not any(thread.is_alive() for thread in found)


def test_no_thread_without_need(started):
    """Neither a pulse nor what it knows starts a thread."""
    pulse, ticked = Pulse(0.001), Ticked()
    pulse.know(ticked)
    assert not started()


def test_one_thread_for_all(started):
    """Whatever is added is called again and again, by one daemon thread."""
    pulse, several = Pulse(0.001), [Ticked() for _ in range(3)]
    for ticked in several:
        pulse.add(ticked)
        pulse.add(ticked)
    (thread,) = started()
    assert thread.daemon
    assert all(ticked.wait(3) for ticked in several)
    assert started() == {thread}
    del several, ticked
    gc.collect()
    assert ends([thread])


def test_it_can_be_woken(started):
    """A word brings a tick at once, long before its time."""
    pulse, ticked = Pulse(FOREVER), Ticked()
    pulse.add(ticked)
    pulse.wake()
    assert ticked.wait()
    found = started()
    del ticked
    gc.collect()
    pulse.wake()
    assert ends(found)


def test_it_ends_and_begins_again(started):
    """The thread goes with the last one that it called, and a new one comes with the next."""
    pulse, first = Pulse(0.001), Ticked()
    pulse.add(first)
    assert first.wait()
    found = started()
    del first
    gc.collect()
    assert ends(found)
    second = Ticked()
    pulse.add(second)
    assert second.wait()
    found = started()
    del second
    gc.collect()
    assert ends(found)


def test_a_thread_that_cannot_start(monkeypatch, started):
    """Where no thread can be started the caller hears of it, and the next one tries again."""
    pulse, ticked = Pulse(0.001), Ticked()

    def refuse(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            pulse.add(ticked)
    pulse.add(ticked)
    assert ticked.wait()
    found = started()
    del ticked
    gc.collect()
    assert ends(found)


def test_after_a_fork_it_begins_anew(started):
    """A child has another generation and no thread, and renews the locks of all that was known, called or not."""
    pulse, called, known = Pulse(FOREVER), Ticked(), Ticked()
    pulse.add(called)
    pulse.know(called)
    pulse.know(known)
    before, found = pulse.generation, started()
    pulse.wake()
    assert called.wait()
    pulse.after_fork()
    assert pulse.generation != before
    assert (called.forks, known.forks) == (1, 1)
    other = Pulse(0.001)  # what follows must not hang on the thread that only the parent has
    other.add(called)
    assert called.wait()
    assert len(found) == 1


@pytest.fixture
def reference():
    """One numeric feature."""
    return ReferenceProfile.fit({"a": np.random.default_rng(0).normal(size=300)})


@pytest.fixture
def pulse(monkeypatch):
    """The engines' pulse, of this test alone and a hundred times as fast."""
    own = Pulse(0.01)
    monkeypatch.setattr(modelwatch.engine, "PULSE", own)
    return own


def counted(monitor):
    """Waits until all rows are counted, without asking the monitor to count them."""
    for _ in range(PATIENCE * 1000):
        with monitor.engine.lock:  # not while they are taken and not yet counted
            if monitor.engine.buffer.waiting == 0 and monitor.engine.epoch.rows:
                return monitor.engine.epoch.rows
        threading.Event().wait(0.001)
    return None


def test_rows_are_folded_without_anybody_asking(pulse, reference):
    """One row is counted within a tick, though nobody reports, flushes or scrapes."""
    monitor = Monitor("m", reference=reference)
    monitor.record({"a": 1.0})
    assert counted(monitor) == 1


def test_many_rows_do_not_wait_for_the_tick(monkeypatch, reference):
    """As soon as enough wait they are folded, however far the next tick is, and again after that."""
    own = Pulse(FOREVER)
    monkeypatch.setattr(modelwatch.engine, "PULSE", own)
    monitor = Monitor("m", reference=reference)
    for rows in (FOLD_ROWS, 2 * FOLD_ROWS):
        for _ in range(FOLD_ROWS):
            monitor.record({"a": 1.0})
        assert counted(monitor) == rows
    found = threads()
    del monitor
    own.wake()
    assert found


def test_monitors_come_and_go(pulse, reference, started):
    """A thousand monitors leave no thread and no memory."""

    def live(count):
        for i in range(count):
            Monitor("m", str(i), reference=reference).record({"a": 1.0})

    live(50)
    gc.collect()
    alive = sum(type(one) in {Engine, Monitor} for one in gc.get_objects())  # of other tests
    before = len(gc.get_objects())
    live(1000)
    assert len(started()) <= 1
    assert ends(started())
    gc.collect()
    assert sum(type(one) in {Engine, Monitor} for one in gc.get_objects()) <= alive
    assert len(gc.get_objects()) - before < 1000


FORK = """
import os, signal, sys, threading
import numpy as np
from modelwatch.files import ReferenceProfile
from modelwatch.monitor import Monitor

def outcome(monitor, name):
    cells = {cell.labels: cell.values[0] for cell in monitor.series.cells() if cell.metric == "modelwatch_rows_total"}
    return cells[name,]

reference = ReferenceProfile.fit({"a": np.random.default_rng(0).normal(size=300)})
used, fresh = Monitor("used", reference=reference), Monitor("fresh", reference=reference)
used.record({"a": 1.0})
used.flush()
held, done = threading.Event(), threading.Event()

def hold():
    with used.engine.lock, fresh.engine.lock:
        held.set()
        done.wait()

holder = threading.Thread(target=hold)
holder.start()
held.wait()
child = os.fork()
if child == 0:
    signal.alarm(30)  # a child that hangs must not outlive the test
    for monitor in (used, fresh):
        for _ in range(300):
            monitor.record({"a": 1.0})
        assert monitor.report().rows == 300, monitor.report().rows
        assert outcome(monitor, "recorded") == 300
        monitor.record({"a": 1.0})
        for _ in range(30_000):  # the child has a background thread of its own
            if monitor.engine.epoch.rows == 301:
                break
            threading.Event().wait(0.001)
        else:
            os._exit(3)
        monitor.reload(reference)
        assert monitor.report().rows == 0
    os._exit(0)
done.set()
holder.join()
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
used.record({"a": 1.0})
assert used.report().rows == 2
sys.exit(status)
"""


def test_forked_while_locks_are_held():
    """In a child of a process whose locks were held rows are recorded, folded and reported, from zero on."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


IMPORT = """
import threading
import modelwatch.monitor as m
from modelwatch.files import ReferenceProfile
monitor = m.Monitor("m", reference=ReferenceProfile.fit({"a": [1.0, 2.0] * 100}))
monitor.report()
assert threading.active_count() == 1, threading.enumerate()
monitor.record({"a": 1.0})
assert threading.active_count() == 2
"""


def test_the_first_row_starts_it():
    """Neither the import nor a monitor starts a thread; the first row does; and the process ends with it at once."""
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
