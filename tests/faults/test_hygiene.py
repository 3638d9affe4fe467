"""Good manners: nothing happens before it is needed, mistakes are told at the start, and what is promised is there."""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
import math
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

import modelwatch
from modelwatch.container import Container, pack, piece
from modelwatch.exceptions import ConfigurationError, ReferenceFileError, SegmentError
from modelwatch.guard import STAGES
from modelwatch.port import MOST_CONNECTIONS
from modelwatch.segments import Segments
from modelwatch.series import Series, clean
from modelwatch.shares import Share
from modelwatch.tally import OUTCOMES

ROOT = Path(__file__).parents[2]
SOURCE = Path(modelwatch.__file__).parent
SERVICE = Path(__file__).parents[1] / "support" / "polite.py"
REFERENCE = modelwatch.ReferenceProfile.fit({"a": [float(i % 50) for i in range(500)], "b": ["x", "y"] * 250})
FUZZ = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True, "database": None}
EXAMPLES = [pytest.param(200, id="sampled"), pytest.param(20_000, id="all", marks=pytest.mark.soak)]


def run(*arguments, flags=(), **environment):
    """What tests/support/polite.py prints, as JSON. It may print nothing else, and nothing to stderr."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MODELWATCH_")}
    done = subprocess.run(
        [sys.executable, *flags, str(SERVICE), *arguments],
        env={**inherited, **environment}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, ""), done.stderr[-3000:]
    return json.loads(done.stdout)


class TestTheStart:
    def test_disabled(self):
        """MODELWATCH_DISABLED=1: the app is as it would be without the library, and nothing of it runs."""
        bare, disabled, watched = run("bare"), run("watched", MODELWATCH_DISABLED="1"), run("watched")
        assert disabled == bare
        assert watched != bare
        assert watched["stack"][0] == "modelwatch.asgi.Middleware"

    def test_nothing_before_the_first_use(self):
        """Neither the import nor `instrument` starts a thread, or leaves a file, a socket or a pipe open."""
        before, after, used = run("before")
        assert after == before
        assert used["threads"] > before["threads"]  # so that they would have been seen

    def test_the_import_takes_no_longer_than_fastapi(self):
        """Importing the library on top of fastapi takes less than three times what importing fastapi takes."""
        ratios = [ours / theirs for theirs, ours in itertools.starmap(run, [("imports",)] * 2)]
        assert min(ratios) < 3.0

    @pytest.mark.parametrize(
        ("how", "rounds"), [("reload", 20), ("fresh", 5), pytest.param("fresh", 20, marks=pytest.mark.soak)]
    )
    def test_the_package_is_loaded_again(self, how, rounds):
        """However often the package is reloaded, or imported anew, each app counts each request once, old or new."""
        pages = run("reloads", how, str(rounds))
        assert len(pages) == 4
        for page in pages:
            assert page["model_request_total"] == page["model_rows_total"] == 4.0
            assert page["http_server_request_duration_seconds_count"] == 4.0
            assert page["model_requests_in_progress"] == page["model_queue_depth"] == 0.0
            assert page["modelwatch_internal_errors_total"] == 0.0
            # Of two copies only the last one times sync endpoints.
            assert page["model_inference_duration_seconds_count"] == 4.0 or (how == "fresh" and page is not pages[-1])

    def test_five_apps(self):
        """Apps of one process, instrumented twice each, built anew, called through each other: each counts its own."""
        pages = run("apps")
        assert [page["http_server_request_duration_seconds_count"] for page in pages] == [1.0, 2.0, 3.0, 4.0, 5.0]
        assert [page["model_rows_total"] for page in pages] == [1.0, 2.0, 3.0, 4.0, 5.0]
        assert {page["modelwatch_internal_errors_total"] for page in pages} == {0.0}


# For every setting values that cannot be used, as code has them. Some are refused by `Settings`, some by `instrument`,
# which knows the metrics and the machine.
BAD = {
    "disabled": ["perhaps", 2, None],
    "alpha": [0, 1, -1, math.nan, "high", None],
    "floor": [0, 1.5, math.nan, [0.1]],
    "share_floor": [0, 2, math.inf],
    "min_rows": [0, -5, 1.5, "many"],
    "features": [5, {"hour": 5}, {"hour": {"floor": 3}}, {"hour": {"flor": 0.1}}, {"": {}}],
    "window_seconds": [0, -1, math.inf, math.nan, "1h"],
    "window_slots": [1, 1_000, 2.5],
    "max_window_seconds": [0, 60, math.inf],
    "window_rows": [0, 100, 10**9, "all"],
    "max_age_seconds": [60, 0],
    "event_time": ["perhaps", 3],
    "sample_rate": [0, 1.1, "half"],
    "task": ["ranking", 1],
    "low_confidence": [-0.1, 1.1, math.nan],
    "max_classes": [0, 10**6],
    "learn_rows": [10, 10**9, 0.5],
    "learn_seconds": [-1, math.nan, "1h"],
    "learn_path": [5, "no/such/directory/r.json", "a\0b"],
    "watch_reference": ["perhaps", 7],
    "max_reference_bytes": [0, -1, "64MiB"],
    "metrics_path": ["", "/", "metrics", "/metrics/", "/a b", "/{x}", "/a?b", "/ä\n"],
    "metrics_token": [5, ["x"], "", "two words", "line\n"],
    "metrics_port": [0, -1, 70_000, "http", 1.5],
    "metrics_host": [5, "", "no host", "a\0b", "http://0.0.0.0"],
    "collect_seconds": [0, -1, math.inf, "5s"],
    "page": ["perhaps", 2],
    "page_path": ["", "/", "modelwatch", "/modelwatch/", "/a b", "/{x}", "/a?b", "/ä\n"],
    "metrics": [{"no_such_metric": True}, {"gpus": False}, {"infra": "perhaps"}, [1]],
    "buckets": [
        {"no_such_metric": (1,)}, {"model_batch_size": ()}, {"model_batch_size": (2, 1)},
        {"model_batch_size": (1, math.inf)}, {"model_batch_size": range(101)}, {"model_rows_total": (1,)}, [1],
    ],
    "labels": [{"le": "x"}, {"a-b": "x"}, {"": "x"}, {"__a": "x"}, {"stage": "x"}, {"a": 5}, [1]],
    "capture": ["perhaps", 2],
    "buffer_rows": [0, 255, 1e9 + 0.5],
    "max_series": [0, 255, "many"],
    "dir": [5, "a\0b"],
}  # fmt: skip
KEYS = {"features": r"features|FeatureRule", "max_window_seconds": "max_window_seconds", "window_rows": "window_rows"}
# What the environment holds, for those whose bad values are no text there.
AS_TEXT = {
    "labels": ["team", "le=x", "a-b=x", "{", "[1]"],
    "metrics": ["infra", "infra=perhaps", "no_such_metric=true", "{"],
    "buckets": ["model_batch_size=x", '{"model_batch_size": [2, 1]}', '{"no_such_metric": [1]}', "{"],
    "metrics_token": ["two words", "line\nbreak", ""],
    "learn_path": ["no/such/directory/r.json"],
    "metrics_host": ["no host", "http://0.0.0.0"],
    "dir": [],
}


def start(**values):
    """Instrument an app with settings: all that a service does before its first request."""
    reference = "learn" if "learn_path" in values or "MODELWATCH_LEARN_PATH" in os.environ else REFERENCE
    return modelwatch.instrument(FastAPI(), model_name="m", reference=reference, settings=modelwatch.Settings(**values))


@pytest.fixture
def no_variables(monkeypatch):
    for name in [name for name in os.environ if name.upper().startswith("MODELWATCH_")]:
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("no_variables")
class TestConfiguration:
    def test_every_setting_is_tried(self):
        """No setting is left out below."""
        assert BAD.keys() == modelwatch.Settings.model_fields.keys()

    @pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
    def test_a_bad_value_fails_at_the_start(self, name, value):
        """A value that cannot be used is refused before the first request, in a sentence that names the key."""
        with pytest.raises(ConfigurationError) as caught:
            start(**{name: value})
        message = str(caught.value)
        assert re.search(KEYS.get(name, rf"\b{name}\b"), message), message
        assert message.startswith("Expected ")
        assert message[-1] in ".?"

    @pytest.mark.parametrize("name", sorted(BAD.keys() - {"features"}))
    def test_a_bad_variable_fails_at_the_start(self, name, monkeypatch):
        """So is a variable, by the name of its setting."""
        texts = AS_TEXT.get(name, [str(value) for value in BAD[name] if isinstance(value, int | float | str)])
        for text in texts:
            if "\0" in text:
                continue  # no environment can hold it
            monkeypatch.setenv(f"MODELWATCH_{name.upper()}", text)
            with pytest.raises(ConfigurationError, match=rf"(?i)\b(MODELWATCH_)?{name}\b"):
                start()

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            ({"reference": "no/such/file.json"}, "no/such/file.json"),
            ({"reference": 5}, "ReferenceProfile"),
            ({"reference": ""}, "regular file"),
            ({"reference": "a\0b"}, "reference"),
            ({"routes": ["predict"]}, "routes"),
            ({"routes": [5]}, "routes"),
            ({"exclude": ["x"]}, "exclude|routes"),
            ({"model_name": ""}, "model_name"),
            ({"model_name": 5}, "model_name"),
            ({"model_version": 5}, "model_version"),
        ],
    )
    def test_a_bad_argument_fails_at_the_start(self, arguments, said):
        """So is an argument of `instrument`."""
        with pytest.raises((ConfigurationError, ReferenceFileError), match=said):
            modelwatch.instrument(FastAPI(), **{"model_name": "m", "reference": REFERENCE, **arguments})


class TestAboutItself:
    def samples(self):
        """{name: {labels: value}} of the first scrape of a service that has done nothing."""
        page = run("first page")
        found: dict[str, dict[frozenset[tuple[str, str]], float]] = {}
        for family in text_string_to_metric_families(page):
            for sample in family.samples:
                found.setdefault(sample.name, {})[frozenset(sample.labels.items())] = sample.value
        return found

    def test_metrics_of_itself_are_there_from_the_start(self):
        """What went wrong, was lost, folded away or skipped can be seen to rise: it is there at 0 before it happens."""
        found = self.samples()

        def labels(name, label):
            return {dict(key).get(label): value for key, value in found[name].items()}

        assert labels("modelwatch_internal_errors_total", "stage") == dict.fromkeys(STAGES, 0.0)
        assert labels("modelwatch_rows_total", "outcome") == dict.fromkeys(OUTCOMES, 0.0)
        assert set(found["modelwatch_segments_skipped_total"].values()) == {0.0}
        assert set(found["modelwatch_degraded"].values()) == {0.0}
        assert set(found["model_reference_reload_failed"].values()) == {0.0}
        assert set(found["model_workers"].values()) == {1.0}
        assert set(found["modelwatch_buffer_rows"].values()) == {0.0}
        assert set(found["modelwatch_capture_available"].values()) == {1.0}
        assert set(found["modelwatch_build_info"].values()) == {1.0}
        assert found["modelwatch_scrape_duration_seconds_count"]  # of the scrapes before this one
        assert min(found["model_reference_loaded_timestamp_seconds"].values()) > 1.6e9

    def test_what_is_folded_away_is_counted(self):
        """A label set beyond the limit of a metric shows as a count of that metric."""
        series = Series(limit=2)
        for i in range(5):
            series.counter("model_request_total", ("m", str(i)))
        assert series.overflows == {"model_request_total": 3}


WAYS = {
    "asyncio in debug mode": (["requests", "debug"], ["-X", "dev", "-W", "error"]),
    "uvloop": (["requests", "uvloop"], ["-W", "error"]),
    "uvloop in debug mode": (["requests", "uvloop debug"], ["-X", "dev", "-W", "error"]),
    "trio": (["requests", "trio"], ["-X", "dev", "-W", "error"]),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_thousand_requests_without_a_warning(way):
    """Nothing is left open, never awaited or deprecated, in whatever event loop, with all of Python's checks on."""
    arguments, flags = WAYS[way]
    pytest.importorskip(way.partition(" ")[0])
    found = run(*arguments, flags=flags)
    assert found["requests"] == 1_000
    assert found["statuses"] == {"200": found["statuses"]["200"], "422": found["statuses"]["422"], "500": 50}
    assert sum(found["statuses"].values()) == 1_000
    assert found["errors"] == 0
    assert found["rows"] == found["statuses"]["200"]


class TestLinters:
    """What bandit looks for, ruff looks for too (its rules S), in `make check`."""

    CONFIGURATION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["ruff"]["lint"]

    def test_the_rules_on_security_are_on(self):
        """The rules on security are selected, and for the package only the one on random numbers is not."""
        assert "S" in self.CONFIGURATION["select"]
        assert [rule for rule in self.CONFIGURATION["ignore"] if rule.startswith("S") and rule[1].isdigit()] == ["S311"]
        for pattern, rules in self.CONFIGURATION["per-file-ignores"].items():
            if pattern.startswith("src"):
                assert [rule for rule in rules if rule.startswith("S") and rule[1:2].isdigit()] == []

    def test_every_exception_to_them_has_a_reason(self):
        """Where the package overrules one of them it says which and why."""
        for path in SOURCE.rglob("*.py"):
            for line in path.read_text("utf-8").splitlines():
                if "noqa" in line:
                    assert re.search(r"# noqa: [A-Z]+\d+(, [A-Z]+\d+)* - \w", line), f"{path.name}: {line}"

    def test_no_default_address_is_without_encryption(self):
        """No setting and no argument has an `http:` address by default: the library calls nobody."""
        for field in modelwatch.Settings.model_fields.values():
            assert "http:" not in str(field.default)
        for path in SOURCE.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.arguments):
                    for default in (*node.defaults, *node.kw_defaults):
                        assert default is None or "http:" not in ast.unparse(default), path.name

    def test_it_calls_nobody(self):
        """No module but the demo opens a connection to anybody."""
        clients = {"http.client", "urllib.request", "httpx", "requests", "aiohttp", "ftplib", "smtplib", "xmlrpc"}
        for path in SOURCE.rglob("*.py"):
            if "demo" in path.parts or "_examples" in path.parts:
                continue
            tree = ast.parse(path.read_text("utf-8"))
            names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
            names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
            assert names & clients == set(), path.name
            calls = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
            assert [call for call in calls if call.endswith((".connect", "create_connection", "urlopen"))] == [
                call for call in calls if call == "service.metrics.connect"  # a websocket that is counted
            ], path.name  # fmt: skip


class TestFuzz:
    """Seeds are fixed (`derandomize`), so that what fails here fails everywhere; hypothesis prints what failed."""

    @pytest.mark.parametrize("examples", EXAMPLES)
    def test_labels(self, examples):
        """Whatever text comes, its label is one line of at most 200 characters of valid UTF-8, and stays as it is."""

        @settings(max_examples=examples, **FUZZ)
        @given(st.text(st.characters(codec=None, exclude_categories=()), max_size=300))
        def fuzz(text):
            label = clean(text)
            assert label.isprintable()
            assert len(label) <= 200
            assert clean(label) == label
            label.encode("utf-8")
            series = Series()
            series.counter("a", (text,))
            assert [cell.labels for cell in series.cells()] == [(label,)]

        fuzz()

    def written(self):
        """The body and the pieces of a file that a worker shares."""
        monitor = modelwatch.Monitor("m", reference=REFERENCE)
        monitor.record({"a": [1.0, 2.0, 99.0], "b": ["x", "z", None]})
        monitor.flush()
        keys, values = monitor.series.taken()
        share = Share("1-a", True, keys, values, {"m": monitor.engine.shares()})
        return b"".join(Segments().pack(share, began=1))

    def read(self, path, content):
        """All that is in a file, as far as it can be read; None if it is refused. Nothing else may be raised."""
        path.write_bytes(content)
        try:
            with Container(path) as file:
                share = Segments().unpack(file, "1-a", alive=True)
                windows = [epoch.window for epochs in share.models.values() for epoch in epochs]
                slots = [
                    slot.counts.tolist()
                    for window in windows
                    for slot in (*getattr(window, "fine", {}).values(), *getattr(window, "coarse", {}).values())
                ]
                return share.keys, share.values.tolist(), slots
        except SegmentError as error:
            refusal = error
        assert str(refusal).startswith("Expected ")
        assert refusal.reason in {"damaged", "foreign", "layout"}
        return None

    @pytest.mark.parametrize("examples", EXAMPLES)
    def test_what_workers_share(self, tmp_path, examples):
        """A file of counts that was cut, mixed up or made of anything is refused, or gives what was written."""
        whole = self.written()
        right = self.read(tmp_path / "file", whole)
        assert right is not None

        @settings(max_examples=examples, **FUZZ)
        @given(st.data())
        def fuzz(data):
            content = bytearray(whole)
            for _ in range(data.draw(st.integers(1, 3))):
                at = data.draw(st.integers(0, len(content)))
                if data.draw(st.booleans()):  # other bytes in the same place
                    content[at : at + 1] = bytes([data.draw(st.integers(0, 255))]) if at < len(content) else b""
                else:
                    length = data.draw(st.sampled_from([0, 1, 4, 8, 100, len(content)]))
                    content[at : at + length] = data.draw(st.binary(max_size=16))
            found = self.read(tmp_path / "file", bytes(content))
            assert found is None or found == right

        fuzz()

    @pytest.mark.parametrize("examples", EXAMPLES)
    def test_what_workers_share_with_right_checksums(self, tmp_path, examples):
        """Whatever a body says and its pieces hold, whole as it is, reading it gives something or is refused."""
        leaves = st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats() | st.text(max_size=5)
        values = st.recursive(
            leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
            max_leaves=6,
        )  # fmt: skip
        whole = self.written()
        (tmp_path / "file").write_bytes(whole)
        with Container(tmp_path / "file") as file:
            body = file.body
            pieces = [file.read(number) for number in range(len(file._pieces))]

        def places(value, path=()):
            yield path
            inside = value if isinstance(value, dict) else dict(enumerate(value)) if isinstance(value, list) else {}
            for key, inner in inside.items():
                yield from places(inner, (*path, key))

        paths = list(places(body))[1:]

        @settings(max_examples=examples, **FUZZ)
        @given(st.data())
        def fuzz(data):
            changed, parts = json.loads(json.dumps(body)), list(pieces)
            if data.draw(st.booleans()):
                path = data.draw(st.sampled_from(paths))
                at = changed
                for key in path[:-1]:
                    at = at[key]
                value = data.draw(values)
                at[path[-1]] = None if isinstance(value, float) and not math.isfinite(value) else value
            else:
                number = data.draw(st.integers(0, len(parts) - 1))
                parts[number] = data.draw(st.binary(max_size=40) | values.map(lambda v: json.dumps(v).encode()))
            try:
                content = b"".join(pack(changed, [piece(part) for part in parts]))
            except ValueError:
                return  # NaN deep within: no file can say it
            self.read(tmp_path / "file", content)

        fuzz()


SECURITY = (ROOT / "SECURITY.md").read_text("utf-8")


class TestSecurityPage:
    def test_every_setting_named_exists(self):
        """What SECURITY.md writes as a setting is one, and what it writes as a variable belongs to one."""
        named = set(re.findall(r"`(\w+)`", SECURITY))
        fields = modelwatch.Settings.model_fields.keys()
        table = re.findall(r"^\| `(\w+)`", SECURITY, re.MULTILINE)
        assert table
        arguments = {"exclude", "hash_categories", "routes"}
        assert [name for name in table if name not in fields | arguments] == []
        for variable in re.findall(r"MODELWATCH_(\w+)", SECURITY):
            assert variable.lower() in fields
        assert {
            "metrics_token", "metrics_port", "metrics_host", "dir", "max_reference_bytes", "hash_categories",
            "max_series", "buffer_rows", "collect_seconds", "exclude", "capture",
        } <= named  # fmt: skip

    def test_every_value_named_is_the_default(self):
        """The defaults that SECURITY.md names are those of the settings."""
        rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \|", SECURITY, re.MULTILINE)
        fields = modelwatch.Settings.model_fields
        said = {name: text.strip() for name, text in rows if name in fields}
        assert said["max_reference_bytes"] == "64 MiB"
        assert fields["max_reference_bytes"].default == 64 * 2**20
        for name in ("max_series", "buffer_rows", "collect_seconds"):
            assert float(said[name]) == fields[name].default
        assert said["metrics_host"] == fields["metrics_host"].default

    def test_every_metric_named_exists(self):
        """The metrics that SECURITY.md names are in the catalogue."""
        from modelwatch.metrics.catalogue import CATALOGUE

        named = re.findall(r"`((?:model|modelwatch|http_server)_\w+)", SECURITY)
        assert named
        assert [name for name in named if name not in CATALOGUE] == []

    def test_what_is_said_of_hashes(self):
        """The hash of a category hides its name, and is the same for everybody: who can guess the name can check it."""
        profile = modelwatch.ReferenceProfile.fit({"plan": ["basic", "pro"] * 200}, hash_categories=["plan"])
        text = profile.to_json()
        assert "basic" not in text
        assert f"#{hashlib.sha256(b'basic').hexdigest()[:16]}" in text

    def test_what_is_said_of_the_port(self):
        """The port takes as many connections as SECURITY.md says."""
        assert MOST_CONNECTIONS == 8
        assert "eight connections" in SECURITY

    def test_all_four_are_thought_of(self):
        """The threat model has a section for each of the four, and each says what the library does not do."""
        sections = dict(re.findall(r"^### (.+?)\n(.*?)(?=^##|\Z)", SECURITY, re.MULTILINE | re.DOTALL))
        for who in ("client", "scraper", "local user", "author of a reference"):
            [text] = [text for title, text in sections.items() if who in title]
            assert "does not" in text
