"""`/metrics` as a client sees it: who may read, in which format, filtered, compressed, and never twice at once."""

from __future__ import annotations

import asyncio
import gzip
import os
import signal
import threading
import time

import pytest
from prometheus_client import Counter, Gauge
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from modelwatch.exceptions import ConfigurationError
from modelwatch.exposition import Exposition
from modelwatch.guard import Guard
from modelwatch.metrics.families import Collected
from modelwatch.metrics.pace import NoPace, Pace
from modelwatch.metrics.registry import Registry
from modelwatch.series import Sample
from modelwatch.settings import Settings

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PATIENCE = 30  # seconds until a test that hangs fails; none waits that long when all is well


class Answer:
    """What an application sent."""

    def __init__(self, messages):
        start, *bodies = messages
        assert start["type"] == "http.response.start"
        assert all(name == name.lower() for name, _ in start["headers"])
        self.status = start["status"]
        self.headers = {name.decode(): value.decode() for name, value in start["headers"]}
        self.raw = b"".join(message["body"] for message in bodies)
        assert len(self.headers) == len(start["headers"])

    @property
    def text(self):
        packed = self.headers.get("content-encoding") == "gzip"
        return (gzip.decompress(self.raw) if packed else self.raw).decode("utf-8")


async def ask(app, query="", method="GET", **headers):
    """One request to an ASGI application; `accept_encoding="gzip"` is a header."""
    messages = []

    async def receive():
        raise AssertionError("the body of a scrape is read")

    async def send(message):
        messages.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": "/metrics",
        "query_string": query.encode(),
        "headers": [(name.replace("_", "-").encode(), to_bytes(value)) for name, value in headers.items()],
    }
    await app(scope, receive, send)
    return Answer(messages)


def to_bytes(value):
    return value if isinstance(value, bytes) else value.encode()


def get(app, query="", method="GET", **headers):
    return asyncio.run(ask(app, query, method, **headers))


@pytest.fixture
def guard():
    return Guard()


@pytest.fixture
def ours(guard):
    return Registry(guard)


@pytest.fixture
def app(ours, guard):
    """An exposition of one counter, `jobs_total` 2, and one gauge, `depth` 3."""
    Counter("jobs", "Jobs.", registry=ours).inc(2)
    Gauge("depth", "Depth.", registry=ours).set(3)
    return Exposition(ours, Settings(), guard)


class Slow:
    """A collector that stands still until it is let go, and counts how often it was asked."""

    def __init__(self):
        self.asked, self.ended, self.begun, self.go = 0, 0, threading.Semaphore(0), threading.Event()

    def collect(self):
        self.asked += 1
        value = self.asked
        self.begun.release()
        went = self.go.wait(PATIENCE)
        self.ended += 1
        assert went
        yield GaugeMetricFamily("asked", "How often.", value)


async def until(semaphore):
    """Wait for a thread without standing still."""
    assert await asyncio.to_thread(semaphore.acquire, timeout=PATIENCE)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/html,*/*;q=0.8", TEXT),
        ("text/plain", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ("Application/OpenMetrics-Text; Version=1.0.0", OPENMETRICS),
        ('application/openmetrics-text; version="1.0.0"; charset=utf-8', OPENMETRICS),
        ("application/openmetrics-text;version=0.0.1,text/plain;q=0.5", TEXT),
        ("application/openmetrics-text;version=2.0.0", TEXT),
        ("application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text;q=0.2, text/plain;q=0.9", TEXT),
        ("text/plain, application/openmetrics-text", OPENMETRICS),
        ("application/openmetrics-text;q=rubbish", TEXT),
        (";;,=;q=;", TEXT),
        (PROMETHEUS_3, OPENMETRICS),
    ],
)
def test_format_is_negotiated(app, accept, kind):
    """The best of what the client reads is sent, and it is what the header says it is."""
    answer = get(app, accept=accept)
    assert answer.status == 200
    assert answer.headers["content-type"] == kind
    parse = parse_openmetrics if kind == OPENMETRICS else parse_text
    values = {sample.name: sample.value for family in parse(answer.text) for sample in family.samples}
    assert (values["jobs_total"], values["depth"]) == (2, 3)
    assert answer.text.endswith("# EOF\n") == (kind == OPENMETRICS)


def test_no_accept_header_is_text(app):
    """A client that says nothing gets text."""
    assert get(app).headers["content-type"] == TEXT


def test_accept_headers_add_up(ours, guard):
    """A header that comes twice is one list."""
    messages = []

    async def send(message):
        messages.append(message)

    headers = [(b"accept", b"text/html"), (b"accept", b"application/openmetrics-text")]
    scope = {"type": "http", "method": "GET", "query_string": b"", "headers": headers}
    asyncio.run(Exposition(ours, Settings(), guard)(scope, None, send))
    assert Answer(messages).headers["content-type"] == OPENMETRICS


@pytest.mark.parametrize(
    ("accepted", "packed"),
    [("gzip", True), ("deflate, GZIP;q=0.5", True), ("gzip;q=0", False), ("br", False), ("", False)],
)
def test_long_pages_are_compressed(app, ours, accepted, packed):
    """A page over a kilobyte is compressed for those who take it, and its length is what is sent."""
    for number in range(50):
        Gauge(f"filler_{number}", "Makes the page long.", registry=ours)
    answer = get(app, accept_encoding=accepted)
    assert ("content-encoding" in answer.headers) == packed
    assert (len(answer.raw) < 1024) == packed
    assert int(answer.headers["content-length"]) == len(answer.raw)
    assert "jobs_total 2.0" in answer.text


def test_short_pages_are_not_compressed(app):
    """What fits a packet is sent as it is."""
    answer = get(app, accept_encoding="gzip")
    assert "content-encoding" not in answer.headers
    assert "jobs_total 2.0" in answer.text


@pytest.mark.parametrize("query", ["name[]=depth", "name%5B%5D=depth", "x=1&name[]=depth&name[]=nothing"])
def test_names_filter(app, query):
    """`name[]` restricts the page to what it names."""
    text = get(app, query).text
    assert "depth 3.0" in text
    assert "jobs" not in text


def test_names_filter_our_own_families(ours, guard):
    """A filter finds the library's metrics by the names of their samples, in both formats."""
    collected = Collected(Settings(), guard)
    names = ("model_rows_total", "model_low_confidence_total")
    collected.sources.append(lambda: [Sample(name, ("bike", "1"), 1) for name in names])
    ours.register(collected)
    app = Exposition(ours, Settings(), guard)
    for accept in ("text/plain", "application/openmetrics-text"):
        text = get(app, "name[]=model_rows_total", accept=accept).text
        assert 'model_rows_total{model_name="bike",model_version="1"} 1.0' in text
        assert "low_confidence" not in text


@pytest.mark.parametrize("query", ["", "name[]=", "name", "%", "name[]=%ff", "&&=&", "a;b"])
def test_odd_queries_do_no_harm(app, query):
    """A query that makes no sense gets a page."""
    assert get(app, query).status == 200


def test_head_is_get_without_a_body(app):
    """HEAD has the status and headers of GET, and no body."""
    full, head = get(app), get(app, method="HEAD")
    assert (head.status, head.headers, head.raw) == (full.status, full.headers, b"")
    assert full.raw


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "get", "BREW"])
def test_other_methods_are_refused(app, method):
    """Any other method gets 405 and is told which are allowed."""
    answer = get(app, method=method)
    assert answer.status == 405
    assert answer.headers["allow"] == "GET, HEAD"
    assert int(answer.headers["content-length"]) == len(answer.raw)


@pytest.mark.parametrize("authorization", [b"Bearer s3cret", b"bearer s3cret", b"  BEARER   s3cret "])
def test_the_right_token_opens(ours, guard, authorization):
    """The token of the settings, whatever the case of the scheme, opens the page."""
    app = Exposition(ours, Settings(metrics_token="s3cret"), guard)
    assert get(app, authorization=authorization).status == 200


@pytest.mark.parametrize(
    "authorization",
    [
        b"", b"Bearer", b"Bearer ", b"Bearer s3cre", b"Bearer s3cret2", b"Bearer S3CRET", b"Basic s3cret", b"s3cret",
        b"Bearer \xff\xfe", "Bearer s3crét".encode(), b"Bearers3cret", b"Bearer x,Bearer s3cret",
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_any_other_token_does_not(ours, guard, authorization, method):
    """A wrong token, also one that is not ASCII, gets 401, whatever the method, and not a number of the page."""
    Gauge("depth", "Depth.", registry=ours).set(3)
    app = Exposition(ours, Settings(metrics_token="s3cret"), guard)
    answer = get(app, method=method, authorization=authorization)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert b"depth" not in answer.raw
    assert b"s3cret" not in answer.raw


def test_without_a_token_there_is_no_door(ours, guard):
    """A missing header gets 401 where a token is set, and nobody is asked where none is."""
    assert get(Exposition(ours, Settings(metrics_token="s3cret"), guard)).status == 401
    assert get(Exposition(ours, Settings(), guard), authorization="Bearer whatever").status == 200


@pytest.mark.parametrize("token", ["", " ", "two words", "line\nbreak", "\ud800"])
def test_a_token_that_no_header_can_bring_is_refused(ours, guard, token):
    """A token that would lock everybody out, or let everybody in, is refused at the start and not shown."""
    settings = Settings.model_construct(**{**dict(Settings()), "metrics_token": Secret(token)})
    with pytest.raises(ConfigurationError, match="metrics_token") as caught:
        Exposition(ours, settings, guard)
    assert "words" not in str(caught.value)
    assert "break" not in str(caught.value)


class Secret:
    """Stands for pydantic's SecretStr, which refuses what is not UTF-8 by itself."""

    def __init__(self, text):
        self.get_secret_value = lambda: text


def test_rendering_leaves_the_event_loop_alone(ours, guard):
    """While a scrape is rendered the event loop goes on working."""
    slow = Slow()
    ours.register(slow)

    async def scenario():
        scrape = asyncio.create_task(ask(Exposition(ours, Settings(), guard)))
        await until(slow.begun)
        assert not scrape.done()
        slow.go.set()
        return await scrape

    assert "asked 1.0" in asyncio.run(scenario()).text


def test_scrapes_share_a_rendering(ours, guard):
    """Scrapes that come while one is rendered wait for the next rendering together: ten cost two.

    Those that waited see what happened after the first had begun.
    """
    slow = Slow()
    ours.register(slow)
    app = Exposition(ours, Settings(), guard)

    async def scenario():
        scrapes = [asyncio.create_task(ask(app))]
        await until(slow.begun)
        scrapes += [asyncio.create_task(ask(app)) for _ in range(9)]
        await asyncio.sleep(0)  # every task runs up to where it waits
        slow.go.set()
        return await asyncio.gather(*scrapes)

    first, *others = asyncio.run(scenario())
    assert "asked 1.0" in first.text
    assert all("asked 2.0" in other.text for other in others)
    assert slow.asked == 2


def test_one_rendering_at_a_time(ours, guard):
    """Scrapes that want different pages are rendered one after the other, by one thread."""
    slow = Slow()
    ours.register(slow)
    app = Exposition(ours, Settings(), guard)

    async def scenario():
        tasks = [
            asyncio.create_task(ask(app, f"name[]=asked&name[]={number}", accept_encoding=coding))
            for number in range(5)
            for coding in ("gzip", "")
        ]
        await until(slow.begun)
        assert slow.asked == 1
        assert len([thread for thread in threading.enumerate() if thread.name == "modelwatch-scrape"]) == 1
        slow.go.set()
        return await asyncio.gather(*tasks)

    answers = asyncio.run(scenario())
    assert sorted(int(answer.text.split()[-1].partition(".")[0]) for answer in answers) == list(range(1, 11))


def test_event_loops_share_a_rendering(ours, guard):
    """Scrapes from several event loops, each in its thread, are all answered."""
    slow = Slow()
    ours.register(slow)
    app = Exposition(ours, Settings(), guard)
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(get(app))) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert slow.begun.acquire(timeout=PATIENCE)
    slow.go.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert [answer.status for answer in answers] == [200] * 4


def test_a_cancelled_scrape_takes_nothing_from_others(ours, guard):
    """Two wait for a page, one is cancelled: the other gets it."""
    slow = Slow()
    ours.register(slow)
    app = Exposition(ours, Settings(), guard)

    async def scenario():
        first, cancelled, other = (asyncio.create_task(ask(app)) for _ in range(3))
        await until(slow.begun)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        slow.go.set()
        return await asyncio.gather(first, other)

    assert [answer.status for answer in asyncio.run(scenario())] == [200, 200]


def test_nothing_is_left_of_an_app(guard):
    """A thousand apps, each scraped once, leave no thread."""
    before = set(threading.enumerate())

    async def scenario():
        for _ in range(1000):
            assert (await ask(Exposition(Registry(guard), Settings(), guard))).status == 200

    asyncio.run(scenario())
    for thread in set(threading.enumerate()) - before:
        thread.join(PATIENCE)  # the last one may be about to end
    assert set(threading.enumerate()) - before == set()


def test_a_full_executor_does_not_hold_a_scrape_up(app):
    """A service that keeps all threads of its event loop's pool busy can still be scraped."""
    go, busy = threading.Event(), threading.Semaphore(0)

    def occupy():
        busy.release()
        assert go.wait(PATIENCE)

    async def scenario():
        loop = asyncio.get_running_loop()
        jobs = [loop.run_in_executor(None, occupy) for _ in range(100)]
        answer = await asyncio.wait_for(ask(app), PATIENCE)
        assert not any(job.done() for job in jobs)
        go.set()
        await asyncio.gather(*jobs)
        return answer

    assert asyncio.run(scenario()).status == 200


@pytest.fixture
def own(ours, guard):
    """The library's own collector, of one number."""
    collected = Collected(Settings(), guard)
    collected.sources.append(lambda: [Sample("model_rows_total", ("bike", "1"), 7)])
    ours.register(collected)


@pytest.mark.swallows
def test_without_threads_the_page_is_rendered_at_once(app, own, guard, monkeypatch):
    """Where no thread can be started a scrape is answered all the same, without users' collectors: they might hang."""

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)

    async def scenario():
        return await ask(app)

    for answer in (asyncio.run(scenario()).text, app.answer("GET", [], b"").body.decode()):
        assert "model_rows_total" in answer
        assert "jobs_total" not in answer
    assert guard.errors["scrape"] == 4  # two collectors, twice


def test_pauses_are_made_where_nobody_waits(ours, guard, monkeypatch):
    """A page is rendered with pauses in a thread of the library's, and without them on an event loop's thread."""
    paces = []

    def rendered(*_, pace, **__):
        paces.append(type(pace))
        return b""

    monkeypatch.setattr("modelwatch.exposition.render", rendered)
    app = Exposition(ours, Settings(), guard)
    assert get(app).status == 200
    with pytest.raises(StopIteration):
        ask(app).send(None)
    assert paces == [Pace, NoPace]


def test_without_asyncio_the_page_is_rendered_at_once(app):
    """On an event loop that is not asyncio's the scrape is answered all the same."""
    coroutine = ask(app)
    with pytest.raises(StopIteration) as stopped:
        coroutine.send(None)
    assert "jobs_total 2.0" in stopped.value.value.text


def test_a_client_that_has_gone_is_no_error(app):
    """A server that says by OSError that nobody listens any more hears no complaint."""

    async def send(message):
        raise OSError("gone")

    asyncio.run(app({"type": "http", "method": "GET", "query_string": b"", "headers": []}, None, send))


@pytest.mark.swallows
def test_a_failing_collector_costs_its_own(app, ours, guard):
    """A user's collector that raises is counted and left out; the page is served without it."""

    class Broken:
        def collect(self):
            raise ZeroDivisionError

    ours.register(Broken())
    answer = get(app)
    assert answer.status == 200
    assert "jobs_total 2.0" in answer.text
    assert guard.errors["scrape"] == 1


@pytest.mark.swallows
@pytest.mark.parametrize("coding", ["", "gzip"])
def test_a_page_that_cannot_be_made_is_a_500(app, guard, monkeypatch, coding):
    """When rendering itself fails the client gets a 500, the error is counted, and the next scrape works."""
    with monkeypatch.context() as patch:
        patch.setattr("modelwatch.exposition.render", None)
        answer = get(app, accept_encoding=coding)
    assert answer.status == 500
    assert "content-encoding" not in answer.headers
    assert guard.errors["scrape"] == 1
    assert get(app).status == 200


@pytest.mark.swallows
def test_a_collector_that_ends_its_thread_costs_its_own(app, ours, guard):
    """A collector that calls `sys.exit` costs what it alone brings; the page is there, and the next one."""

    class Leaver:
        leave = True

        def collect(self):
            if self.leave:
                raise SystemExit
            return [GaugeMetricFamily("left", "L.", 0)]

    leaver = Leaver()
    ours.register(leaver)
    assert "jobs_total 2.0" in get(app).text
    assert guard.errors["scrape"] == 1
    leaver.leave = False
    assert "left 0.0" in get(app).text


@pytest.mark.swallows
def test_whatever_ends_a_rendering_it_is_answered(app, guard, monkeypatch):
    """Even what ends a thread, such as SystemExit within the library, leaves no scrape waiting."""

    def leave(*_, **__):
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr("modelwatch.exposition.render", leave)
        assert get(app).status == 500
    assert guard.errors["scrape"] == 1
    assert get(app).status == 200


@pytest.mark.swallows
def test_a_collector_that_hangs_costs_its_own(guard):
    """A scrape waits for a user's collector for so long; what the collector brought before is not shown again."""
    registry, slow = Registry(guard, 0.2), Slow()
    registry.register(slow)
    Gauge("depth", "Depth.", registry=registry).set(3)
    app = Exposition(registry, Settings(), guard)
    slow.go.set()
    assert "asked 1.0" in get(app).text
    slow.go.clear()
    for scrapes in range(1, 4):
        text = get(app).text
        assert "depth 3.0" in text
        assert "asked" not in text
        assert guard.errors["scrape"] == scrapes
    assert (slow.asked, slow.ended) == (2, 1)
    slow.go.set()


@pytest.mark.swallows
def test_another_registry_that_hangs_costs_its_own(registry, guard):
    """A plain registry of prometheus_client is asked as one collector: if it hangs there is a page, without it."""
    slow = Slow()
    registry.register(slow)
    app = Exposition(registry, Settings(collect_seconds=0.2), guard)
    answer = get(app)
    assert (answer.status, answer.text, slow.ended) == (200, "", 0)
    assert guard.errors["scrape"] == 1
    slow.go.set()


def test_another_registry_is_shown(registry, guard):
    """All that a plain registry of prometheus_client holds is shown."""
    Gauge("depth", "Depth.", registry=registry).set(3)
    assert "depth 3.0" in get(Exposition(registry, Settings(), guard)).text


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize(
    "headers", [{}, {"accept": "application/openmetrics-text"}, {"authorization": "Bearer s3cret"}]
)
@pytest.mark.parametrize("token", [None, "s3cret"])
def test_a_thread_gets_the_same_answers(ours, guard, method, headers, token):
    """What a thread asks for directly is what a client of the event loop gets."""
    Gauge("depth", "Depth.", registry=ours).set(3)
    app = Exposition(ours, Settings(metrics_token=token), guard)
    answer = get(app, method=method, **headers)
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    status, shown, body = app.answer(method, pairs, b"")
    assert (status, body) == (answer.status, answer.raw)
    assert {name.decode(): value.decode() for name, value in shown} == answer.headers


class Counting(Exposition):
    """An exposition that tells how many wait for a page."""

    def __init__(self, *args):
        super().__init__(*args)
        self.joined = threading.Semaphore(0)

    def _join(self, wish):
        future = super()._join(wish)
        self.joined.release()
        return future


def test_threads_and_event_loops_share_a_rendering(ours, guard):
    """Threads and tasks that ask while one scrape is rendered are answered by the same next rendering."""
    slow = Slow()
    ours.register(slow)
    app = Counting(ours, Settings(), guard)
    bodies = []
    threads = [threading.Thread(target=lambda: bodies.append(app.answer("GET", [], b"").body)) for _ in range(3)]

    async def scenario():
        first = asyncio.create_task(ask(app))
        await until(slow.begun)
        others = [asyncio.create_task(ask(app)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(7):
            await until(app.joined)
        slow.go.set()
        answers = await asyncio.gather(first, *others)
        for thread in threads:
            await asyncio.to_thread(thread.join, PATIENCE)
        return answers

    answers = asyncio.run(scenario())
    assert [answer.text.split()[-1] for answer in answers] == ["1.0", "2.0", "2.0", "2.0"]
    assert [body.split()[-1] for body in bodies] == [b"2.0"] * 3
    assert slow.asked == 2


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_child_renders(app):
    """A child forked while the lock is held and a scrape waits has a lock, and a thread, of its own."""
    app._waiting[None] = None  # a scrape of the parent's that nobody in the child will answer
    with app._lock:
        child = os.fork()
        if child == 0:  # pragma: no cover - another process
            code = 1
            try:
                code = 0 if b"jobs_total 2.0" in app.answer("GET", [], b"").body else 2
            finally:
                os._exit(code)
    app._waiting.clear()
    deadline, status = time.monotonic() + PATIENCE, (0, 0)
    while not status[0] and time.monotonic() < deadline:
        status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.005)
    if not status[0]:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert status[0] == child
    assert os.waitstatus_to_exitcode(status[1]) == 0


def test_the_time_of_a_rendering_is_shown_by_the_next(ours, guard, clock):
    """The duration of each rendering is counted in the series, and seen by the scrape after."""

    class Turning:
        def collect(self):
            clock.advance(0.25)
            return []

    ours.register(Turning())
    app = Exposition(ours, Settings(), guard, clock=clock)
    collected = Collected(Settings(), guard)
    collected.sources.append(app.series.cells)
    ours.register(collected)
    assert "modelwatch_scrape_duration_seconds_sum 0.0" in get(app).text
    assert "modelwatch_scrape_duration_seconds_sum 0.25" in get(app).text


def test_a_series_of_the_app_is_used(ours, guard):
    """Where the app has a series, the duration is counted there."""
    own = Exposition(ours, Settings(), guard).series
    assert Exposition(ours, Settings(), guard, series=own).series is own
    assert [cell.metric for cell in own.cells()] == ["modelwatch_scrape_duration_seconds"]


def test_buckets_of_the_settings_are_used(ours, guard):
    """The bounds of the settings are those of the duration's histogram."""
    settings = Settings(buckets={"modelwatch_scrape_duration_seconds": (1, 2)})
    [cell] = Exposition(ours, settings, guard).series.cells()
    assert cell.bounds == (1, 2)
