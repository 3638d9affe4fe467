"""Event loops, garbage collections and the thread pool, on real ones; lateness is made by turning the clock."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import weakref

import anyio
import pytest
from anyio import to_thread

from modelwatch.guard import Guard
from modelwatch.metrics import runtime
from modelwatch.metrics.runtime import LAG, PAUSE, GcPauses, LoopProbe
from modelwatch.series import Series

BOUNDS = (0.1, 1.0, 10.0)
TICK = 0.001  # real seconds between two callbacks in these tests; nothing is measured with them
PATIENCE = 30  # seconds after which a condition that has to come is given up


@pytest.fixture
def series():
    """An empty series."""
    return Series()


@pytest.fixture
def probe(series, clock):
    """A probe whose loops call back every millisecond and are as late as the clock is turned."""
    return LoopProbe(series, BOUNDS, Guard(), interval=TICK, clock=clock)


@pytest.fixture(autouse=True)
def no_hook(monkeypatch):
    """Each test has a hook of its own, and ends without an entry of it in `gc.callbacks`; other apps may live."""
    own = runtime._Hook()
    monkeypatch.setattr(runtime, "_hook", own)
    yield
    gc.collect()
    assert own not in gc.callbacks


def cell(series, metric, *labels):
    """The values of one histogram: buckets and sum."""
    return next(cell.values for cell in series.cells() if (cell.metric, cell.labels) == (metric, labels))


def lags(series):
    """(callbacks counted, sum of their lags in seconds)."""
    *buckets, total = cell(series, LAG)
    return sum(buckets), total


async def until(condition):
    """Let the loop run until the condition holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - a count has no event
            await asyncio.sleep(TICK)


def test_lag_is_how_much_too_late_the_loop_calls_back(probe, series, clock):
    """A loop that was blocked for two seconds counts one lag of two seconds, in its bucket."""

    async def scenario():
        probe.ensure()
        clock.advance(TICK + 2)
        await until(lambda: lags(series)[0] >= 1)

    asyncio.run(scenario())
    assert cell(series, LAG)[2] == 1
    assert lags(series)[1] == pytest.approx(2)


def test_a_callback_in_time_counts_as_no_lag(probe, series):
    """A callback that comes early by a hair counts 0, never less."""

    async def scenario():
        probe.ensure()
        await until(lambda: lags(series)[0] >= 3)  # the clock stands still: each is early by one interval

    asyncio.run(scenario())
    assert lags(series)[1] == 0
    assert cell(series, LAG)[0] == lags(series)[0]


def test_one_timer_per_loop(series):
    """However often it is asked for, one loop has one timer."""
    calls = []

    class Counting(asyncio.SelectorEventLoop):
        def call_later(self, delay, callback, *args, context=None):
            if isinstance(callback, runtime._Beat):
                calls.append(callback)
            return super().call_later(delay, callback, *args, context=context)

    probe = LoopProbe(series, BOUNDS, Guard(), interval=PATIENCE)

    async def scenario():
        for _ in range(100):
            probe.ensure()

    with asyncio.Runner(loop_factory=Counting) as runner:
        runner.run(scenario())
        runner.run(scenario())
    assert len(calls) == 1


def test_each_new_loop_is_measured(probe, series):
    """Test clients make a loop per test: each is measured, and none is remembered."""
    loops = []

    async def scenario():
        before = lags(series)[0]
        probe.ensure()
        loops.append(weakref.ref(asyncio.get_running_loop()))
        await until(lambda: lags(series)[0] > before)

    for _ in range(20):
        asyncio.run(scenario())
    gc.collect()
    assert [loop for loop in loops if loop() is not None] == []
    assert len(probe._beats) == 1
    assert probe.samples() == []


def test_two_loops_at_once(probe, series):
    """Two loops that serve in turn keep one timer each."""
    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()

    async def ensure():
        probe.ensure()

    try:
        for _ in range(5):
            first.run_until_complete(ensure())
            second.run_until_complete(ensure())
        assert len(probe._live()) == 2
        assert {sample.metric: sample.value for sample in probe.samples()}["model_threadpool_limit_threads"] == 80
    finally:
        first.close()
        second.close()
    assert probe._live() == []


def test_the_timer_ends_with_its_owner(series):
    """When the app is gone, the loop runs on without a timer of ours."""
    probe = LoopProbe(series, BOUNDS, Guard(), interval=TICK)
    owner = weakref.ref(probe)

    async def scenario():
        nonlocal probe
        probe.ensure()
        beat = probe._last
        probe = None
        assert owner() is None, "something keeps the probe"
        await until(lambda: beat() is None)

    asyncio.run(scenario())


def test_the_timer_does_not_keep_the_context_of_a_request(probe):
    """What a request put into its context is gone with the request, though the timer it started runs on."""
    variable = contextvars.ContextVar("variable")

    class Users:
        pass

    async def request():
        users = Users()
        variable.set(users)
        probe.ensure()
        return weakref.ref(users)

    async def scenario():
        users = await asyncio.create_task(request())
        await asyncio.sleep(0)  # the loop lets go of the task that is done
        gc.collect()
        assert users() is None
        assert probe._last() is not None

    asyncio.run(scenario())


def test_a_loop_that_is_dropped_unstopped_is_collected(probe):
    """A pending timer does not keep its loop from being collected."""
    loop = asyncio.new_event_loop()

    async def ensure():
        probe.ensure()

    loop.run_until_complete(ensure())
    loop.close()
    gone = weakref.ref(loop)
    del loop
    gc.collect()
    assert gone() is None
    assert probe._last() is None


@pytest.mark.swallows
def test_a_failure_is_counted_and_the_timer_goes_on(probe, series, monkeypatch, swallowed_errors):
    """An error of our own goes to the guard, never to the loop, and the next callback is counted again."""
    original, seen = LoopProbe.count, []

    def fail_once(self, lag):
        seen.append(lag)
        if len(seen) == 1:
            raise RuntimeError("made up")
        original(self, lag)

    monkeypatch.setattr(LoopProbe, "count", fail_once)

    async def scenario():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: pytest.fail(str(context)))
        probe.ensure()
        await until(lambda: lags(series)[0] >= 1)

    asyncio.run(scenario())
    assert probe.guard.errors["tick"] == 1
    assert [stage for stage, _ in swallowed_errors] == ["tick"]


def test_without_a_running_loop(probe, series):
    """Where no asyncio loop runs (in a thread, under trio) nothing happens."""
    probe.ensure()
    assert probe.samples() == []
    assert lags(series)[0] == 0


def threads(probe):
    """The samples of the thread pool, by the middle of their names."""
    return {sample.metric.split("_")[2]: sample.value for sample in probe.samples()}


def test_thread_pool(probe):
    """Busy threads, the limit and the tasks that wait are those of AnyIO's default limiter."""
    release = threading.Event()

    async def scenario():
        probe.ensure()
        assert threads(probe) == {"busy": 0, "limit": 40, "waiting": 0}
        limiter = to_thread.current_default_thread_limiter()
        limiter.total_tokens = 2
        async with anyio.create_task_group() as group:
            try:
                for _ in range(5):
                    group.start_soon(to_thread.run_sync, release.wait, PATIENCE)
                await until(lambda: limiter.statistics().tasks_waiting == 3)
                assert threads(probe) == {"busy": 2, "limit": 2, "waiting": 3}
            finally:
                release.set()
        assert threads(probe) == {"busy": 0, "limit": 2, "waiting": 0}

    asyncio.run(scenario())
    assert probe.samples() == []


@pytest.mark.parametrize("error", [ImportError, RuntimeError, LookupError])
def test_thread_pool_that_cannot_be_found(probe, series, error, monkeypatch):
    """Where AnyIO has no limiter the lag is measured, and nothing is said about threads."""

    def refuse():
        raise error

    monkeypatch.setattr(to_thread, "current_default_thread_limiter", refuse)

    async def scenario():
        probe.ensure()
        await until(lambda: lags(series)[0] >= 1)
        assert probe.samples() == []

    asyncio.run(scenario())


def test_thread_pool_of_a_closed_loop(probe):
    """A loop that is closed has no threads any more, even if something keeps its timer."""

    async def scenario():
        probe.ensure()
        return probe._last()

    beat = asyncio.run(scenario())
    assert beat.limiter is not None
    assert probe.samples() == []


def test_samples_from_another_thread(probe):
    """A scrape reads the pool from its own thread."""

    async def scenario():
        probe.ensure()
        return await to_thread.run_sync(lambda: threads(probe))

    assert asyncio.run(scenario())["busy"] == 1


def pauses_of(series):
    """Collections counted, by generation."""
    return [sum(cell(series, PAUSE, str(number))[:-1]) for number in range(3)]


@pytest.fixture
def no_collections():
    """No collection but those that the test asks for."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collections")
def test_collections_are_counted_by_generation(series):
    """Each collection counts once, in its generation, with the time it took."""
    watcher = GcPauses(series, BOUNDS, Guard())
    gc.collect(2)
    gc.collect(0)
    gc.collect(0)
    assert pauses_of(series) == [2, 0, 1]
    assert cell(series, PAUSE, "2")[-1] > 0
    del watcher


@pytest.mark.usefixtures("no_collections")
def test_several_apps_hear_of_the_same_collection():
    """There is one entry in `gc.callbacks` for all apps; a dead one is not told, and the last one takes it away."""
    first, second = Series(), Series()
    watchers = [GcPauses(first, BOUNDS, Guard()), GcPauses(second, BOUNDS, Guard())]
    assert gc.callbacks.count(runtime._hook) == 1
    gc.collect()
    watchers.pop()
    gc.collect()
    assert pauses_of(first)[2] == 2
    assert pauses_of(second)[2] == 1
    assert gc.callbacks.count(runtime._hook) == 1
    watchers.pop()
    assert runtime._hook not in gc.callbacks
    assert runtime._hook._watchers == []


@pytest.mark.usefixtures("no_collections")
def test_an_app_that_dies_within_a_collection(series):
    """A watcher that is part of the garbage goes in the middle of a collection; the next app starts clean."""
    watcher = GcPauses(Series(), BOUNDS, Guard())
    watcher.itself = watcher
    del watcher
    gc.collect()
    assert runtime._hook not in gc.callbacks
    heir = GcPauses(series, BOUNDS, Guard())
    runtime._hook("stop", {"generation": 2})
    assert pauses_of(series) == [0, 0, 0]
    gc.collect()
    assert pauses_of(series) == [0, 0, 1]
    del heir


@pytest.mark.usefixtures("no_collections")
def test_a_start_without_a_stop_and_the_reverse(series):
    """Halves of a collection are not counted, and do not lengthen the next one."""
    watcher = GcPauses(series, (PATIENCE,), Guard())
    runtime._hook("stop", {"generation": 0})
    runtime._hook("start", {"generation": 0})
    runtime._hook("start", {"generation": 1})
    runtime._hook("stop", {"generation": 1})
    runtime._hook("stop", {"generation": 1})
    assert pauses_of(series) == [0, 1, 0]
    del watcher


@pytest.mark.usefixtures("no_collections")
@pytest.mark.parametrize("generation", [3, None])
def test_a_collection_that_cannot_be_counted(series, generation, monkeypatch):
    """An unknown generation or a store that is closed is counted as an own error; nothing is raised or logged."""
    guard = Guard()
    watcher = GcPauses(series, BOUNDS, guard)
    failures = []
    monkeypatch.setattr("sys.unraisablehook", failures.append)
    monkeypatch.setattr(Guard, "swallow", lambda *arguments: pytest.fail("it may hold a lock"))
    runtime._hook("start", {"generation": generation})
    runtime._hook("stop", {"generation": generation})
    series.values.clear()
    gc.collect()
    assert guard.errors["tick"] == 2
    assert failures == []
    del watcher


def test_a_thousand_apps_leave_nothing(probe):
    """A new app and loop per test of a user's suite leave no callback, timer or watcher behind."""

    def alive():
        gc.collect()
        return sum(type(thing) in {runtime._Beat, GcPauses} for thing in gc.get_objects())

    async def scenario(own):
        own.ensure()
        await asyncio.sleep(0)

    before, callbacks = alive(), list(gc.callbacks)
    for _ in range(1000):
        series = Series()
        own, watcher = LoopProbe(series, BOUNDS, Guard()), GcPauses(series, BOUNDS, Guard())
        asyncio.run(scenario(own))
    del own, watcher
    assert gc.callbacks == callbacks
    assert alive() <= before  # those of other tests' apps


def test_apps_made_and_dropped_in_many_threads():
    """Whatever threads do at once, the last app takes the entry away, and one that lives is told."""
    survivor_series = Series()
    survivor = GcPauses(survivor_series, BOUNDS, Guard())

    def churn():
        for _ in range(200):
            GcPauses(Series(), BOUNDS, Guard())

    workers = [threading.Thread(target=churn) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert runtime._hook in gc.callbacks
    before = pauses_of(survivor_series)[2]
    gc.collect()
    assert pauses_of(survivor_series)[2] > before
    del survivor
    gc.collect()
    assert runtime._hook not in gc.callbacks
