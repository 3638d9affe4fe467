"""The stack: what is told of a fleet is what Prometheus and Alertmanager say of it, and nothing of it is left."""

from __future__ import annotations

import io
import itertools
import json
import shutil
import signal
import subprocess
from types import SimpleNamespace

import httpx
import pytest
import yaml
from rich.console import Console
from support.playing import playing

from modelwatch import demo
from modelwatch.demo import stack
from modelwatch.demo import traffic as demo_traffic
from modelwatch.demo.firing import Alert, Known, changes, names, of_alertmanager, of_prometheus
from modelwatch.demo.receiver import Message, Receiver, read
from modelwatch.demo.show import Show
from modelwatch.demo.stage import DemoError
from modelwatch.demo.traffic import Traffic
from modelwatch.demo.watch import Watch
from modelwatch.fleet.shipped import shipped_files

DRIFT = {"alertname": "ModelwatchFeatureDrift", "category": "drift", "severity": "warning"}


def labelled(feature, **more):
    return DRIFT | {"feature": feature} | more


def test_alerts_are_read_as_prometheus_tells_them():
    """An alert has its name, feature, category, state and what it says; one without a feature has none."""
    data = {
        "alerts": [
            {"labels": labelled("temp"), "state": "firing", "annotations": {"description": "PSI 1.5"}},
            {"labels": {"alertname": "ModelwatchNoTraffic"}, "state": "pending", "annotations": {}},
        ]
    }
    assert of_prometheus(data) == [
        Alert("ModelwatchFeatureDrift", "temp", "drift", "firing", "PSI 1.5"),
        Alert("ModelwatchNoTraffic", "", "", "pending", ""),
    ]


def test_what_alertmanager_keeps_silent_is_told_apart():
    """An alert that another one inhibits, or that somebody has silenced, is silent."""
    quiet = {"state": "active", "inhibitedBy": [], "silencedBy": []}
    found = of_alertmanager(
        [
            {"labels": labelled("a"), "status": quiet},
            {"labels": labelled("b"), "status": quiet | {"inhibitedBy": ["f00"]}},
            {"labels": labelled("c"), "status": quiet | {"silencedBy": ["f00"]}},
        ]
    )
    assert [(one.feature, one.silent) for one in found] == [("a", False), ("b", True), ("c", True)]
    assert found[0] == Known("ModelwatchFeatureDrift", "a", False)


def test_only_changes_are_told():
    """Each step of an alert is told once: pending, firing, over; one that never fired is never over."""
    steps = [[], ["pending", "pending"], ["pending", "firing"], ["firing", "firing"], [None, "firing"], [None, None]]
    told, before = [], []
    for states in steps:
        now = [Alert("D", name, "drift", s) for name, s in zip("ab", states, strict=False) if s]
        told.append(list(changes(before, now)))
        before = now
    assert told == [
        [],
        [("pending", "D: a, b")],
        [("firing", "D: b")],
        [("firing", "D: a")],
        [("over", "D: a")],
        [("over", "D: b")],
    ]
    assert list(changes([Alert("D", "a", "drift", "pending")], [])) == []


def test_names_of_alerts_are_short():
    """The features of one alert stand together; one without a feature stands for itself."""
    assert names([labelled("b"), labelled("a"), {"alertname": "Down"}]) == "Down; ModelwatchFeatureDrift: a, b"


@pytest.fixture
def receiver():
    """A webhook that listens."""
    found = Receiver()
    yield found
    found.close()


def test_receiver_takes_messages_in_order(receiver):
    """What is posted can be taken once, in the order in which it came."""
    body = {"receiver": "model-team", "alerts": [{"labels": labelled("temp")}]}
    for status in ("firing", "resolved"):
        assert httpx.post(receiver.url, json=body | {"status": status}, trust_env=False).status_code == 204
    assert receiver.take() == [Message("model-team", firing, (labelled("temp"),)) for firing in (True, False)]
    assert receiver.take() == []


@pytest.mark.parametrize(
    "body", [b"", b"no", b"[]", b"{}", b'{"receiver": "a", "status": "firing", "alerts": [{"labels": 3}]}', b"\xff"]
)
def test_receiver_refuses_what_is_no_message(receiver, body):
    """Whatever else is posted is answered with 400, and is no message."""
    assert read(body) is None
    assert httpx.post(receiver.url, content=body, trust_env=False).status_code == 400
    assert receiver.take() == []


class Answers:
    """Stands for Prometheus or Alertmanager: answers by path, or not at all."""

    def __init__(self, **answers):
        self.answers, self.gone = answers, False

    def get(self, path, **_):
        if self.gone:
            raise httpx.ConnectError("gone")
        return httpx.Response(200, json=self.answers[path.rpartition("/")[2]], request=httpx.Request("GET", "http://x"))


@pytest.fixture
def watched(receiver):
    """A watch of services that answer with what a test says, and what it has printed."""
    text = io.StringIO()
    prometheus = Answers(query={"data": {"result": []}}, alerts={"data": {"alerts": []}})
    alertmanager = Answers(alerts=[])
    watch = Watch(Show(Console(file=text, width=100)), prometheus, alertmanager, receiver)
    return SimpleNamespace(watch=watch, prometheus=prometheus, alertmanager=alertmanager, receiver=receiver, text=text)


def test_watch_says_what_is_missing(watched):
    """From drift to whoever is told of it, the first step that has not come is a sentence, until none is missing."""
    said = []

    def look():
        watched.watch.look()
        said.append(" ".join(watched.watch.missing()))

    look()
    drifted = {"metric": {"feature": "temp"}, "value": [0, "1"]}
    watched.prometheus.answers["query"] = {"data": {"result": [drifted]}}
    look()
    alerts = [{"labels": labelled("temp"), "state": state, "annotations": {}} for state in ("pending", "firing")]
    for alert in alerts:
        watched.prometheus.answers["alerts"] = {"data": {"alerts": [alert]}}
        look()
    watched.alertmanager.answers["alerts"] = [
        {"labels": labelled("temp"), "status": {"inhibitedBy": [], "silencedBy": []}}
    ]
    look()
    for labels in ({"alertname": "ModelwatchUnseenCategories"}, labelled("temp")):
        message = {"receiver": "model-team", "status": "firing", "alerts": [{"labels": labels}]}
        httpx.post(watched.receiver.url, json=message, trust_env=False)
        look()
    assert "temp drifts in these data" in said[0]
    assert [("to fire in Prometheus" in one, "has none" in one, "tell its receiver" in one) for one in said] == [
        (True, False, False),
        (True, False, False),
        (True, False, False),
        (False, True, False),
        (False, False, True),
        (False, False, True),
        (False, False, False),
    ]
    assert said[-1] == ""
    lines = [line.split("s", 1)[1].split() for line in watched.text.getvalue().splitlines()]
    assert [line[0] for line in lines] == ["drifted", "pending", "firing", "told", "told"]


def test_watch_bears_a_service_that_does_not_answer(watched):
    """A service that does not answer at one look changes nothing of what is known, and is asked again at the next."""
    alert = {"labels": labelled("temp"), "state": "firing", "annotations": {}}
    watched.prometheus.answers["alerts"] = {"data": {"alerts": [alert]}}
    watched.watch.look()
    watched.prometheus.gone = watched.alertmanager.gone = True
    watched.watch.look()
    assert [one.feature for one in watched.watch.alerts] == ["temp"]
    watched.prometheus.gone = False
    watched.prometheus.answers["alerts"] = {"data": {"alerts": []}}
    watched.watch.look()
    assert watched.watch.alerts == []


def test_watch_tells_once_what_has_become_silent(watched):
    """An alert that another one makes silent is told of when that happens, and not again."""
    status = {"inhibitedBy": [], "silencedBy": []}
    for inhibited in ([], ["f00"], ["f00"]):
        watched.alertmanager.answers["alerts"] = [
            {"labels": labelled("temp"), "status": status | {"inhibitedBy": inhibited}}
        ]
        watched.watch.look()
    [line] = watched.text.getvalue().splitlines()
    assert "silent   ModelwatchFeatureDrift: temp, as another alert says the same" in line


class Replica:
    """Stands for a service: keeps what it is sent."""

    def __init__(self, code=200):
        self.code, self.days = code, []

    def post(self, path, hours):
        self.days.append(hours[0]["date"])
        return httpx.Response(self.code, request=httpx.Request("POST", "http://x"))

    def report(self, what):
        return f"service {what}."


def dates(since):
    """So many days as there are, each of two rows."""
    months = [f"2011-0{month}-{day:02d}" for month in (1, 4) for day in range(1, 11)]
    yield from ((date, [{"date": date}] * 2) for date in months if date >= since)


def test_days_go_to_the_replicas_by_turns():
    """Each day of the winter is sent once, to the replica whose turn it is; the rows are counted."""
    replicas = [Replica(), Replica(), Replica()]
    traffic = Traffic(replicas, dates)
    assert traffic.winter() == 10
    assert [len(replica.days) for replica in replicas] == [4, 3, 3]
    assert sorted(itertools.chain.from_iterable(one.days for one in replicas)) == [day for day, _ in dates("")][:10]
    assert traffic.rows == 20


def test_summers_come_again_and_again(monkeypatch):
    """After the last day the first of the serving period follows; no more days are sent than the pace allows."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(demo_traffic.time, "monotonic", lambda: clock.now)
    monkeypatch.setattr(demo_traffic.time, "sleep", lambda seconds: setattr(clock, "now", clock.now + seconds))
    replica = Replica()
    Traffic([replica], dates).go_on(3.0)
    assert replica.days[:12] == [*(day for day, _ in dates("2011-04")), "2011-04-01", "2011-04-02"]
    assert 3 * 12 <= len(replica.days) <= 4 * 12 + 1


def test_replica_that_fails_ends_the_stack():
    """A request that does not succeed is an error with the log of the replica."""
    with pytest.raises(DemoError, match="service stopped answering"):
        Traffic([Replica(500)], dates).winter()


def test_alertmanager_is_configured_as_shipped():
    """The stack's Alertmanager has the shipped routes and inhibitions; only patience and the webhook are its own."""
    shipped = yaml.safe_load(shipped_files()["alertmanager.yml"])
    config = yaml.safe_load(stack.alertmanager_config(shipped_files()["alertmanager.yml"], "http://127.0.0.1:1/"))
    assert config["inhibit_rules"] == shipped["inhibit_rules"]
    told = {one["name"] for one in config["receivers"] if one.get("webhook_configs")}
    assert told == {one["name"] for one in shipped["receivers"]} - {"nobody"}

    def routes(route):
        mine = {key: value for key, value in route.items() if not key.startswith("group_") or key == "group_by"}
        return mine | {"routes": [routes(one) for one in route.get("routes", ())]}

    assert routes(config["route"]) == routes(shipped["route"])


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool; `make test` sees to it")
def test_prometheus_takes_its_configuration(tmp_path):
    """Prometheus' own tool accepts the stack's configuration with its rules."""
    (tmp_path / "rules.yml").write_text("groups: []")
    urls = ["http://127.0.0.1:1", "http://127.0.0.1:2"]
    text = stack.prometheus_config(urls, ["rules.yml"], "http://127.0.0.1:3")
    (tmp_path / "prometheus.yml").write_text(text)
    assert json.loads(text)["scrape_configs"][0]["static_configs"] == [{"targets": ["127.0.0.1:1", "127.0.0.1:2"]}]
    command = ["promtool", "check", "config", str(tmp_path / "prometheus.yml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_missing_programs_are_named(monkeypatch, capsys):
    """Without Prometheus or Alertmanager the stack says which, and what brings it, and starts nothing."""
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, *more: None if "alert" in name else which(name, *more))
    monkeypatch.setattr(stack, "play", lambda once: pytest.fail("it was started"))
    assert demo.run_stack() == 2
    printed = capsys.readouterr()
    assert "no prometheus-alertmanager on PATH" in printed.err
    assert "sudo apt-get install prometheus-alertmanager`" in printed.err
    assert printed.out == ""


@pytest.fixture
def played(tmp_path):
    """Plays the stack, with these arguments of `run_stack`."""
    with playing(tmp_path) as play:
        yield lambda arguments="", before="", **options: play(
            f"{before}from modelwatch.demo import run_stack; code = run_stack({arguments})", **options
        )


def test_drift_is_told_from_end_to_end(played):
    """With --once it ends with 0 when drift of temp over the fleet has been alerted and told, and leaves nothing."""
    sooner = "from modelwatch.demo import stack; stack._PENDING = '3s'; "
    one = played("once=True", before=sooner)
    assert one.end() == 0, one.text
    assert "no alert fires" in one.words
    said = [line.split() for line in one.lines]
    for word, text in (("drifted", "temp"), ("firing", "ModelwatchFeatureDrift:"), ("told", "model-team,")):
        assert any(word in line and text in " ".join(line) for line in said), one.text
    assert "What does not drift in these data has not drifted: hour" in one.words
    assert one.text.replace("\n", "").isprintable()
    assert "Warning" not in one.text
    assert one.left == []


def test_kept_stack_ends_with_ctrl_c(played):
    """What does not come in time is a sentence; it goes on, says what to open, and Ctrl-C leaves nothing of it."""
    one = played(before="from modelwatch.demo import stack; stack._MOST_SECONDS = 0; ")
    one.read_until("Ctrl-C ends it")
    assert "Expected an alert over drift to fire in Prometheus, got none." in one.words
    alerts = next(line for line in one.lines if line.endswith("the alerts")).split()[0]
    assert httpx.get(alerts, trust_env=False).status_code == 200
    for address in ("/modelwatch ", "/metrics ", "/graph?g0.expr=modelwatch:feature_psi:1h", "amtool alert", "grafana"):
        assert address in one.text
    assert len(one.processes) == 6
    assert one.end(signal.SIGINT) == 1, one.text
    assert one.lines[-1] == "Stopped. Nothing of it is left."
    assert one.left == []


def test_nothing_is_left_of_a_stack_that_is_stopped(played):
    """SIGTERM while it is being built takes all with it, without a traceback."""
    # A signal between an open() and its `with` leaves the file to the collector, in any Python program.
    one = played(warnings=("error", "ignore::ResourceWarning"))
    one.read_until("Trained on")
    assert one.end(signal.SIGTERM) == 143
    assert "Traceback" not in one.text
    assert one.left == []
