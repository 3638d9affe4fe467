"""The demo: the story is told from what the service shows, and nothing is left of it, however it ends."""

from __future__ import annotations

import importlib.resources
import importlib.util
import io
import math
import os
import signal
import socket
import sys
import threading
import time

import numpy as np
import psutil
import pytest
from rich.console import Console
from support.playing import lives, playing

import modelwatch
from modelwatch import demo
from modelwatch.demo import play as demo_play
from modelwatch.demo import stage as demo_stage
from modelwatch.demo.show import Show
from modelwatch.demo.story import Day, Page, Reading, day_of, findings, objections, psi_between, quantile

CALM = Reading(drifted=False, severity=0, psi=0.01, distance=0.02)


def record(dates=20, warm_from=10):
    """Days as they are recorded: temp drifts from one of them on, more and more; the controls never do."""
    days = []
    for i in range(dates):
        features = dict.fromkeys(("hour", "weekday", "workingday"), CALM)
        warm = Reading(drifted=True, severity=3, psi=float(i), distance=0.5)
        days.append(Day(f"2011-04-{i + 1:02d}", features | {"temp": warm if i >= warm_from else CALM}))
    return days


def test_page_reads_samples_by_label():
    """Values are found by one label, restricted by others, and summed where several samples share it."""
    page = Page(
        'rows_total{model="a",status="ok"} 3\nrows_total{model="b",status="ok"} 4\n'
        'rows_total{model="b",status="bad"} 1\n'
    )
    assert page.by("rows_total", "model") == {"a": 3, "b": 5}
    assert page.by("rows_total", "status", model="b") == {"ok": 4, "bad": 1}
    assert page.total("rows_total", status="ok") == 7
    assert page.by("rows_total", "colour") == {}
    assert page.total("nothing") == 0


def test_day_holds_what_was_said():
    """A day has a reading of each feature with a verdict: KS for numbers, total variation for categories."""
    page = Page(
        'model_feature_drift_detected{feature="temp"} 1\nmodel_feature_drift_severity{feature="temp"} 3\n'
        'model_feature_drift_psi{feature="temp"} 5.25\nmodel_feature_drift_ks_statistic{feature="temp"} 0.75\n'
        'model_feature_drift_total_variation{feature="temp"} 0.5\n'
        'model_feature_drift_detected{feature="season"} 0\nmodel_feature_drift_severity{feature="season"} 0\n'
        'model_feature_drift_psi{feature="season"} 0.125\nmodel_feature_drift_total_variation{feature="season"} 0.25\n'
    )
    day = day_of("2011-05-01", page)
    assert day.features == {"temp": Reading(True, 3, 5.25, 0.75), "season": Reading(False, 0, 0.125, 0.25)}


def test_day_of_silence_has_no_feature():
    """Where nothing is said, for too few rows, nothing is recorded: no made-up zero."""
    assert day_of("2011-04-01", Page("model_rows_total 24\n")).features == {}


def test_findings_tell_since_when_how_far_and_how_often():
    """Of each feature: the first date, the worst reading with its date, and days of evaluations; the worst first."""
    first, *others = findings(record(), {"temp": 5.1})
    assert (first.feature, first.since, first.drifted, first.evaluations) == ("temp", "2011-04-11", 10, 20)
    assert (first.worst_date, first.worst.psi, first.first_month_psi) == ("2011-04-20", 19.0, 5.1)
    assert {(f.feature, f.since, f.drifted, f.worst) for f in others} == {
        (name, None, 0, None) for name in ("hour", "weekday", "workingday")
    }
    assert math.isnan(others[0].first_month_psi)


def test_findings_count_only_days_on_which_something_was_said():
    """A feature without a verdict on a day is not counted as calm on it."""
    days = [Day("2011-04-01", {}), *record()]
    assert {finding.evaluations for finding in findings(days, {})} == {20}


def test_story_holds():
    """There is no objection if temp was found and the controls never."""
    assert objections(findings(record(), {})) == []


def test_story_fails_without_drift():
    """That temp is not found is an objection, and so is a control that is; each is a sentence with the feature."""
    days = record(warm_from=99)
    days[3].features["hour"] = Reading(True, 1, 0.2, 0.1)
    missed, false_alarm = objections(findings(days, {}))
    assert missed.startswith("temp drifts")
    assert false_alarm.startswith("hour does not drift")
    assert "1 days" in false_alarm


def test_story_fails_without_evaluations():
    """Silence is no success: a feature of which nothing was said is an objection."""
    assert objections([]) == [f"Nothing was said of {name}." for name in ("temp", "hour", "weekday", "workingday")]


def exposed(reference, counts):
    """The bins of one feature as a service shows them."""
    lines = [f'model_feature_reference_rows{{feature="x"}} {sum(reference)}']
    for i, (share, count) in enumerate(zip(reference, counts, strict=True)):
        lines.append(f'model_reference_bin_share{{feature="x",bin="{i:02d}"}} {share / sum(reference)!r}')
        lines.append(f'model_feature_bin_total{{feature="x",bin="{i:02d}"}} {count}')
    return Page("\n".join([*lines, 'model_feature_bin_total{feature="x",bin="_missing"} 7', ""]))


def test_psi_of_a_month_comes_from_counters():
    """PSI of what two scrapes lie apart is that of the rows that came between them; missing values have no part."""
    reference, before, after = [30, 30, 40], [5, 0, 1], [15, 20, 101]
    expected = modelwatch.psi(np.array(reference), np.array(after) - np.array(before))
    assert psi_between(exposed(reference, before), exposed(reference, after)) == {
        "x": pytest.approx(expected, abs=1e-12)
    }


def test_psi_of_no_rows_is_not_told():
    """Between two scrapes without a row there is no PSI."""
    page = exposed([30, 30, 40], [5, 0, 1])
    assert psi_between(page, page) == {}


def test_quantile_is_that_of_promql():
    """The quantile lies within its bucket as far as its rank does; beyond the last bound it is that bound."""
    buckets = [("0.1", 50), ("0.5", 90), ("+Inf", 100)]
    page = Page("".join(f'h_bucket{{le="{bound}"}} {count}\n' for bound, count in buckets))
    assert quantile(0.25, page, "h") == pytest.approx(0.05)
    assert quantile(0.7, page, "h") == pytest.approx(0.3)
    assert quantile(0.99, page, "h") == 0.5
    assert math.isnan(quantile(0.5, Page('h_bucket{le="+Inf"} 0\n'), "h"))


@pytest.mark.parametrize("width", [30, 50, 80, 200])
def test_table_fits_the_terminal(width):
    """On a narrow terminal columns go, and no line is cut or wrapped."""
    text = io.StringIO()
    Show(Console(file=text, width=width)).table(findings(record(), {"temp": 5.1}))
    lines = text.getvalue().splitlines()
    assert len(lines) == 6  # two of the header
    assert max(map(len, lines)) <= width
    assert "temp" in lines[2]
    assert "2011-04-11" in lines[2]
    assert ("0.50" in lines[2]) == (width >= 80)


def test_progress_without_terminal_is_a_few_lines():
    """In a log there are a few whole lines with date and count, and no control character."""
    text = io.StringIO()
    with Show(Console(file=text, width=80)).progress(641) as advance:
        for i in range(641):
            advance(f"day {i}")
    lines = text.getvalue().splitlines()
    assert len(lines) == 5
    assert lines[-1].strip() == "day 640  641 of 641 days"
    assert text.getvalue().replace("\n", "").isprintable()


def test_missing_packages_are_named(monkeypatch, capsys):
    """Without its packages the demo says which, and how to get them."""
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in {"rich", "sklearn"} else find(name))
    assert demo.run() == 2
    printed = capsys.readouterr()
    assert "rich, scikit-learn" in printed.err
    assert 'pip install "modelwatch[demo]"' in printed.err
    assert printed.out == ""


def test_stage_ends_what_it_started(tmp_path, monkeypatch):
    """A process that heeds no SIGTERM goes too, with its children, and so does the directory."""
    monkeypatch.setattr(demo_stage, "_STOP_SECONDS", 0.05)
    stubborn = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']); "
        "open('child', 'w').write(str(child.pid)); print('ready', flush=True); time.sleep(600)"
    )
    with demo_stage.stage() as staged:
        directory = staged.directory
        process = staged._start([sys.executable, "-c", stubborn], directory / "log")
        while "ready" not in (directory / "log").read_text():
            assert process.poll() is None
        child = psutil.Process(int((directory / "child").read_text()))
    assert process.returncode == -signal.SIGKILL
    assert not directory.exists()
    deadline = time.monotonic() + 10
    while lives(child):  # it was killed, but not by its parent: nobody can wait for it
        assert time.monotonic() < deadline


def test_nothing_runs_after_a_kill(tmp_path):
    """Not even `kill -9`, of which nobody learns anything, leaves a process that the stage has started."""
    started = (
        "import signal, sys; from modelwatch.demo.stage import stage\nwith stage() as staged: "
        "staged._start([sys.executable, '-c', 'import time; time.sleep(600)'], staged.directory / 'log'); "
        "print('ready', flush=True); signal.pause()"
    )
    with playing(tmp_path) as play:
        one = play(started)
        one.read_until("ready")
        deadline = time.monotonic() + 10
        while len(one.processes) < 2:  # while a program takes the place of another one nothing can be read of it
            assert time.monotonic() < deadline
        assert one.end(signal.SIGKILL) == -signal.SIGKILL
        deadline = time.monotonic() + 10
        while one.processes:  # the kernel kills it, and nobody can wait for that
            assert time.monotonic() < deadline


def test_stage_passes_no_foreign_settings_on(monkeypatch):
    """Settings of the user's own services do not reach the demo's, and relative paths stay what they were."""
    monkeypatch.setenv("MODELWATCH_DISABLED", "1")
    monkeypatch.setenv("PYTHONPATH", "src")
    environment = demo_stage._environment(demo_stage._EVENT_TIME)
    assert "MODELWATCH_DISABLED" not in environment
    assert environment["MODELWATCH_WINDOW_SECONDS"] == str(14 * 24 * 3600)
    assert environment["PYTHONPATH"] == os.path.abspath("src")


def test_example_is_found_in_the_wheel_or_beside_the_source(tmp_path, monkeypatch):
    """The wheel has the example in the package, a checkout beside `src`; without either the remedy is said."""
    package = tmp_path / "src" / "modelwatch"
    monkeypatch.setattr(importlib.resources, "files", lambda _: package)
    with pytest.raises(demo_stage.DemoError, match="Install modelwatch again"):
        demo_stage.example()
    for place in (tmp_path / "examples" / "bike_demand", package / "_examples" / "bike_demand"):
        place.mkdir(parents=True)
        (place / "service.py").touch()
        assert demo_stage.example() == place


def test_port_that_is_taken_is_not_given():
    """The port wished for is given if it is free, else another one."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert demo_stage.free_port(port) not in {0, port}
    assert demo_stage.free_port(port) == port


def test_ports_that_are_chosen_together_differ():
    """However many ports are asked for at once, and whichever are wished for twice, none is given twice."""
    assert len(set(demo_stage.free_ports([0] * 500))) == 500
    wished = demo_stage.free_port()
    assert len(set(demo_stage.free_ports([wished, wished, 0]))) == 3


def test_stage_works_in_another_thread():
    """Where signals cannot be handled, the demo goes without."""
    left = []

    def use():
        with demo_stage.stage() as staged:
            left.append((staged.directory, (staged.directory / "service.py").exists()))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    [(directory, was_there)] = left
    assert was_there
    assert not directory.exists()


def test_service_that_fails_says_why():
    """A service that does not start ends the demo with the end of its log."""
    with demo_stage.stage() as staged:
        (staged.directory / "service.py").write_text("raise OSError('no model today')")
        with pytest.raises(demo_stage.DemoError) as raised:
            staged.serve(demo_stage.free_port())
    assert "did not start" in str(raised.value)
    assert "no model today" in str(raised.value)


def test_a_program_that_is_none_is_named():
    """A program that cannot be started is an error of the demo, not a traceback."""
    with demo_stage.stage() as staged, pytest.raises(demo_stage.DemoError, match="no/such/prometheus"):
        staged.prometheus("/no/such/prometheus", demo_stage.free_port(), "http://127.0.0.1:1")


def test_failure_is_a_sentence(monkeypatch, capsys):
    """What goes wrong is told in a sentence, with exit code 1."""

    def fails(self):
        raise demo_stage.DemoError("train.py failed.")

    monkeypatch.setattr(demo_stage.Stage, "train", fails)
    assert demo_play.play(keep=False) == 1
    assert "The demo stopped: train.py failed." in capsys.readouterr().out


@pytest.fixture
def played(tmp_path):
    """Plays the demo, with these arguments of `run`."""
    with playing(tmp_path) as play:
        yield lambda arguments="", **options: play(
            f"from modelwatch.demo import run; code = run({arguments})", **options
        )


def test_thirty_days_are_enough_for_the_story(played):
    """The shortened demo finds temp and none of the controls, in lines that a log can hold, and leaves nothing."""
    one = played("days=30")
    assert one.end() == 0, one.text
    assert "hour, weekday, workingday do not drift in these data, and never did in 22 evaluations" in one.text
    assert "PSI 5.1 over April 2011" in " ".join(one.text.split())
    assert "of which 30 succeeded" in " ".join(one.text.split())
    if demo_stage.prometheus_program():
        assert "Its API returns the drift gauges of 11 features" in one.text
    assert one.text.replace("\n", "").isprintable()
    assert "Warning" not in one.text
    assert one.left == []


def test_kept_service_ends_with_ctrl_c(played):
    """With keep=True it says what to open and serves until Ctrl-C; a story that does not hold has exit code 1."""
    one = played("keep=True, days=3")
    one.read_until("Ctrl-C ends it")
    assert "Nothing was said of temp." in one.text
    assert "/metrics" in one.text
    assert len(one.left) > 1
    assert one.end(signal.SIGINT) == 1, one.text
    assert one.lines[-1] == "Stopped. Nothing of it is left."
    assert one.left == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_nothing_is_left_of_a_demo_that_is_stopped(played, number, code):
    """Ctrl-C and SIGTERM in the middle end it at once, without a traceback, and leave nothing."""
    # A signal between an open() and its `with` leaves the file to the collector, in any Python program.
    one = played(warnings=("error", "ignore::ResourceWarning"))
    one.read_until("replay")
    assert one.end(number) == code
    assert "Traceback" not in one.text
    assert one.left == []


@pytest.mark.soak
def test_two_years(played):
    """The whole demo: temp is found in the first month, the controls never in 633 evaluations; all rows are counted."""
    one = played()
    assert one.end() == 0, one.text
    words = " ".join(one.text.split())
    assert "hour, weekday, workingday do not drift in these data, and never did in 633 evaluations" in words
    assert "Drifted since 2011-04-2" in words
    assert "15,312 rows in 641 requests, of which 641 succeeded" in words
    assert one.left == []
