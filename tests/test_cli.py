"""The command line: what each verb prints, its exit codes, and that damaged input is a sentence and no traceback."""

from __future__ import annotations

import csv
import gzip
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

import modelwatch
from modelwatch.cli import main
from modelwatch.files import ReferenceProfile

BIKE = Path(__file__).parents[1] / "examples" / "bike_demand" / "bike_demand.csv.gz"
FLIGHTS = Path(__file__).parent / "data" / "nyc_flights.csv.gz"
FEATURES = "season,hour,weekday,holiday,workingday,weather,temp,atemp,humidity,windspeed"
TRAINED = 2067  # rows of the first quarter of 2011


@pytest.fixture
def command(capsys):
    """Runs `modelwatch …` and returns its exit code, stdout and stderr."""

    def run(*arguments):
        with pytest.raises(SystemExit) as exit_:
            main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return exit_.value.code, out, err

    return run


@pytest.fixture(scope="module")
def bike(tmp_path_factory):
    """A directory with train.csv (the first quarter), serve.csv (the rest) and the reference of the former."""
    directory = tmp_path_factory.mktemp("bike")
    with gzip.open(BIKE, "rt", encoding="utf-8") as file:
        header, *lines = file.readlines()
    (directory / "train.csv").write_text(header + "".join(lines[:TRAINED]))
    (directory / "serve.csv").write_text(header + "".join(lines[TRAINED:]))
    arguments = ["--features", FEATURES, "--categorical", "workingday", "--time", "ts", "--target", "count"]
    with pytest.raises(SystemExit):
        main(["profile", str(directory / "train.csv"), "-o", str(directory / "reference.json"), *arguments])
    return directory


def write(path, table):
    """A dict of columns as CSV; None is an empty field."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(["" if value is None else value for value in row] for row in zip(*table.values(), strict=True))
    return path


def simple(rows=1000, seed=0):
    draw = random.Random(seed)
    return {
        "size": [draw.gauss(0, 1) for _ in range(rows)],
        "flag": [draw.choice([0, 1]) for _ in range(rows)],
        "colour": [draw.choice(["red", "green"]) for _ in range(rows)],
    }


@pytest.fixture
def files(tmp_path, command):
    """(reference, table) of a small table that has not drifted."""
    code, _, err = command(
        "profile", write(tmp_path / "a.csv", simple(5000)), "-o", tmp_path / "r.json", "--categorical", "flag"
    )
    assert (code, err) == (0, "")
    return tmp_path / "r.json", write(tmp_path / "b.csv", simple(seed=1))


def test_profile_writes_the_reference_of_the_table(command, bike, tmp_path):
    """`profile` writes what `ReferenceProfile.fit` makes, and prints a line a feature and the id."""
    out = tmp_path / "reference.json"
    code, printed, _ = command("profile", bike / "train.csv", "-o", out, "--features", FEATURES, "--time", "ts")
    profile = ReferenceProfile.load(out)
    assert code == 0
    assert profile.rows == TRAINED
    assert profile.time == "ts"
    lines = printed.splitlines()
    assert lines[0].split() == ["feature", "kind", "bins", "rows", "floor", "at", "200"]
    assert [line.split()[0] for line in lines[1:11]] == FEATURES.split(",")
    weather = next(line.split() for line in lines if line.startswith("weather"))
    assert weather[1:4] == ["categorical", "5", str(int(profile.value_rows[5]))]
    assert float(weather[4]) == pytest.approx(profile.feature("weather").floors[0].distance, abs=1e-3)
    assert f"reference {profile.id}: {TRAINED} rows" in printed


def test_profile_options(command, tmp_path):
    """Every option of `profile` does what it says."""
    table = simple(2000) | {"at": list(range(2000)), "said": ["yes", "no"] * 1000, "sure": [0.5] * 2000}
    table |= {"true, or not": [1.0] * 2000}
    path = write(tmp_path / "table.csv", table)
    code, printed, _ = command(
        "profile", path, "-o", tmp_path / "r.json", "--categorical=flag", "--prediction=said", "--confidence=sure",
        "--target", "true, or not", "--time=at", "--hash-categories", "colour",
    )  # fmt: skip
    profile = ReferenceProfile.load(tmp_path / "r.json")
    assert code == 0
    assert profile.names == ("size", "flag", "colour", "prediction", "confidence")
    assert (profile.target, profile.time) == ("true, or not", "at")
    assert profile.feature("flag").cells.kind == "categorical"
    assert '"red"' not in (tmp_path / "r.json").read_text()
    assert "--time" not in printed
    command("profile", path, "-o", tmp_path / "r.json", "--features", 'size,"true, or not"')
    assert ReferenceProfile.load(tmp_path / "r.json").names == ("size", "true, or not")


def test_profile_says_when_floors_cannot_be_told(command, tmp_path):
    """A short table has no calibrated floors, and one without times is taken to be in order: both are said."""
    _, short, _ = command("profile", write(tmp_path / "a.csv", simple(300)), "-o", tmp_path / "r.json")
    assert "no floor can be calibrated" in short
    _, long, _ = command("profile", write(tmp_path / "a.csv", simple(2000)), "-o", tmp_path / "r.json")
    assert "name its column with --time" in long


def test_check_tells_healthy_from_drifted(command, files, tmp_path):
    """`check` exits with 0 for a table that is as the reference, and with 1 for one that is not."""
    reference, table = files
    code, printed, err = command("check", reference, table)
    assert (code, err) == (0, "")
    assert printed.startswith("0 of 3 features drifted (1000 rows")
    drifted = simple(seed=2)
    drifted["size"] = [value + 1 for value in drifted["size"]]
    code, printed, err = command("check", reference, write(tmp_path / "c.csv", drifted))
    assert (code, err) == (1, "")
    assert printed.startswith("1 of 3 features drifted")
    assert printed.splitlines()[3].split()[:2] == ["size", "major"]


def test_check_prints_json(command, bike):
    """`check --json` prints the report's JSON, with the same exit code."""
    code, printed, _ = command("check", bike / "reference.json", bike / "serve.csv", "--json")
    content = json.loads(printed)
    assert code == 1
    assert content["drifted"] == ["season"]
    assert content["features"]["weather"]["missing_share"] > 0.05


def test_check_needs_enough_rows(command, files, tmp_path):
    """A table of which nothing can be said is unusable, not healthy; `--min-rows` says how many are enough."""
    few = write(tmp_path / "few.csv", simple(100, seed=1))
    code, printed, err = command("check", files[0], few)
    assert code == 2
    assert printed.startswith("nothing to say yet")
    assert "at least 200 rows" in err
    assert command("check", files[0], few, "--min-rows", 100)[0] == 0


def test_the_environment_decides_as_in_the_service(command, files, monkeypatch):
    """The verdict's limits are those of MODELWATCH_… variables, and an unknown one is refused."""
    monkeypatch.setenv("MODELWATCH_MIN_ROWS", "5000")
    assert command("check", *files)[0] == 2
    assert command("check", *files, "--min-rows", 500)[0] == 0
    monkeypatch.setenv("MODELWATCH_MIN_ROW", "5000")
    code, _, err = command("check", *files)
    assert code == 2
    assert "MODELWATCH_MIN_ROWS?" in err


def test_one_field_that_is_no_number_costs_one_row(command, files, tmp_path):
    """In a numeric feature of CSV a field of text counts as one value of a wrong type, and the others as numbers."""
    table = simple(seed=1)
    table["size"][3], table["size"][4] = "n/a", None
    _, printed, _ = command("check", files[0], write(tmp_path / "c.csv", table), "--json")
    size = json.loads(printed)["features"]["size"]
    assert size["n"] == 998
    assert size["missing_share"] == 0.002


@pytest.mark.parametrize("kind", [int, float, np.int64, np.float32, str])
def test_categories_of_csv_are_those_of_live_rows(files, kind):
    """0 and 1 of a categorical column of CSV are the categories that a live row's numbers have, of whatever type."""
    profile = ReferenceProfile.load(files[0])
    assert profile.feature("flag").cells.categories == ("0", "1")
    live = profile.count({"size": [0.0, 0.0], "colour": ["red", "red"], "flag": [kind(0), kind(1)]})
    own = live[profile.layout.slices()[1]]
    assert own.tolist() == [1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("texts", [("True", "False"), ("true", "false")])
def test_truths_of_csv_are_those_of_live_rows(command, tmp_path, texts):
    """A column of True and False in CSV has the categories of a live row's booleans; check reads it the same."""
    draw = random.Random(0)
    table = {"flag": [draw.choice([*texts, None]) for _ in range(1000)]}
    path = write(tmp_path / "a.csv", table)
    command("profile", path, "-o", tmp_path / "r.json")
    profile = ReferenceProfile.load(tmp_path / "r.json")
    assert profile.count({"flag": [True, False, np.True_]}).tolist() == [1, 2, 0, 0, 0, 0]
    code, printed, _ = command("check", tmp_path / "r.json", path)
    assert (code, printed[:5]) == (0, "0 of ")


def test_parquet_and_tsv(command, files, tmp_path):
    """Parquet, TSV and compressed CSV give the report that CSV gives."""
    table = simple(seed=1)
    pyarrow.parquet.write_table(pyarrow.table(table), tmp_path / "b.parquet")
    text = files[1].read_text()
    (tmp_path / "b.tsv").write_text(text.replace(",", "\t"))
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(text.encode()))
    expected = command("check", *files)
    for name in ("b.parquet", "b.tsv", "b.csv.gz"):
        assert command("check", files[0], tmp_path / name) == expected


def test_backtest_on_bike_demand(command, bike):
    """Two-week windows, day by day: the temperature alarms; hour, weekday and workingday never do."""
    arguments = [bike / "reference.json", bike / "serve.csv", "--time", "ts", "--window", "2w", "--step", "1d"]
    code, printed, err = command("backtest", *arguments, "--json")
    features = json.loads(printed)["features"]
    assert (code, err) == (0, "")
    assert features["temp"]["alarms"] > 100
    assert features["temp"]["first"].startswith("2011-0")
    assert [features[name]["alarms"] for name in ("hour", "weekday", "workingday")] == [0, 0, 0]
    code, printed, _ = command("backtest", *arguments)
    assert code == 0
    assert any(line.startswith("temp ") for line in printed.splitlines()[4:6])
    assert "workingday" in printed


def test_backtest_of_rows(command, bike):
    """With `--rows` a step may be rows or a time; either way the windows hold that many rows."""
    arguments = [bike / "reference.json", bike / "serve.csv", "--time", "ts", "--rows", "336", "--json"]
    by_rows = json.loads(command("backtest", *arguments, "--step", "24")[1])
    by_time = json.loads(command("backtest", *arguments, "--step", "1d")[1])
    usual = json.loads(command("backtest", *arguments)[1])
    assert by_rows["windows"] == -(-(15312 - 336) // 24) + 1
    assert by_rows["too_few"] == by_time["too_few"] == 0
    assert abs(by_time["windows"] - by_rows["windows"]) < 10
    assert usual["windows"] == -(-(15312 - 336) // 48) + 1


def test_flights_from_end_to_end(command, tmp_path):
    """Half of the flights are the reference of the other half, which its own season sets apart, and not its rhythm."""
    with gzip.open(FLIGHTS, "rt", encoding="utf-8") as file:
        header, *lines = file.readlines()
    (tmp_path / "first.csv").write_text(header + "".join(lines[:28000]))
    (tmp_path / "second.csv").write_text(header + "".join(lines[28000:]))
    features = "origin,carrier,hour,weekday,distance,temp,humid,wind_speed,visib"
    code, printed, _ = command(
        "profile", tmp_path / "first.csv", "-o", tmp_path / "r.json", "--features", features, "--time", "ts"
    )
    assert code == 0
    assert "floor at 1000" in printed
    code, printed, _ = command(
        "backtest", tmp_path / "r.json", tmp_path / "second.csv", "--time", "ts", "--window", "7d", "--json"
    )
    found = json.loads(printed)
    assert code == 0
    assert found["rows"] == 28130
    assert found["features"]["temp"]["alarms"] > 0
    assert found["features"]["weekday"]["alarms"] == 0


def test_backtest_without_any_verdict(command, bike):
    """Windows that are all too short to say anything are no result, and the remedy is named."""
    code, printed, err = command(
        "backtest", bike / "reference.json", bike / "serve.csv", "--time", "ts", "--window", "1d"
    )
    assert code == 2
    assert "0 of 0 windows" in printed
    assert "longer --window" in err


DAMAGED = {
    "missing.csv": None,
    "empty.csv": b"",
    "header.csv": b"size,flag,colour\n",
    "ragged.csv": b"size,flag,colour\n1,0\n",
    "latin.csv": b"size,flag,colour\n1,0,\xe9\n",
    "nul.csv": b"size,flag,colour\n1,0,\0\n",
    "huge.csv": b'size,flag,colour\n1,0,"' + b"x" * 200_000 + b'"\n',
    "plain.csv.gz": b"size,flag,colour\n1,0,red\n",
    "short.csv.gz": gzip.compress(b"size,flag,colour\n" + b"1,0,red\n" * 1000)[:-20],
    "columns.csv": b"a,b\n1,2\n",
    "no.parquet": b"PAR1 no",
    "empty.parquet": b"",
    "table.xlsx": b"PK",
    "table": b"size,flag,colour\n1,0,red\n",
}


@pytest.mark.parametrize("verb", ["profile", "check", "backtest"])
@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_tables(command, files, verb, name, tmp_path):
    """A table that cannot be used is exit code 2 and one sentence on stderr, for every verb."""
    path = tmp_path / name
    if DAMAGED[name] is not None:
        path.write_bytes(DAMAGED[name])
    arguments = {
        "profile": (path, "-o", tmp_path / "out.json", "--features", "size"),
        "check": (files[0], path),
        "backtest": (files[0], path, "--time", "size"),
    }
    code, _, err = command(verb, *arguments[verb])
    if name in {"latin.csv", "nul.csv", "huge.csv"} and verb == "profile" and code == 0:
        return  # what is odd is in a column that is not asked for
    assert code == 2
    assert err.startswith("modelwatch: Expected ")
    assert err.count("\n") == 1
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    "content",
    [None, b"", b"{", b"[]", b"\x80\x04K\x01.", b'{"format": "modelwatch reference", "version": 9}', b"\xff\xfe"],
)
@pytest.mark.parametrize("verb", ["check", "backtest"])
def test_damaged_references(command, files, verb, content, tmp_path):
    """A reference that cannot be read is exit code 2 and one sentence on stderr."""
    path = tmp_path / "damaged.json"
    if content is not None:
        path.write_bytes(content)
    more = ("--time", "size") if verb == "backtest" else ()
    code, out, err = command(verb, path, files[1], *more)
    assert (code, out) == (2, "")
    assert err.startswith("modelwatch: Expected ")
    assert "damaged.json" in err


def test_a_tampered_reference(command, files):
    """A reference that was edited is refused."""
    path, table = files
    path.write_text(path.read_text().replace('"rows":5000', '"rows":5001'))
    assert command("check", path, table)[0] == 2


def test_a_reference_that_cannot_be_written(command, tmp_path):
    """No directory to write to is exit code 2."""
    code, _, err = command("profile", write(tmp_path / "a.csv", simple()), "-o", tmp_path / "no" / "r.json")
    assert code == 2
    assert "writable directory" in err


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("frobnicate",),
        ("check",),
        ("check", "r.json", "t.csv", "--min-rows", "0"),
        ("check", "r.json", "t.csv", "--min-rows", "²"),
        ("profile", "t.csv"),
        ("backtest", "r.json", "t.csv"),
        ("backtest", "r.json", "t.csv", "--time", "ts", "--window", "0d"),
        ("backtest", "r.json", "t.csv", "--time", "ts", "--window", "7 fortnights"),
        ("backtest", "r.json", "t.csv", "--time", "ts", "--window", "7d", "--rows", "100"),
        ("backtest", "r.json", "t.csv", "--time", "ts", "--rows", "many"),
        ("backtest", "r.json", "t.csv", "--time", "ts", "--step", "-1d"),
        ("backtest", "r.json", "t.csv", "--time", "ts", "--step", "soon"),
        ("backtest", "r.json", "t.csv", "--time", "ts", "--rows", "9", "--step", "0"),
    ],
)
def test_bad_arguments(command, arguments):
    """Arguments that cannot be used are exit code 2, and stderr says which."""
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert err


@pytest.mark.parametrize("verb", ["profile", "check", "backtest", "doctor", "demo", "stack"])
def test_every_verb_has_help(command, verb):
    """`--help` lists every verb, and every verb has its own."""
    assert f" {verb} " in command("--help")[1]
    code, printed, _ = command(verb, "--help")
    assert code == 0
    assert printed.startswith(f"usage: modelwatch {verb}")


def test_version(command):
    """`--version` tells the package's."""
    assert command("--version") == (0, f"modelwatch {modelwatch.__version__}\n", "")


def test_stack_is_called(command, monkeypatch):
    """`stack` runs the stack, passes `--once` on, and exits with its code."""
    called = []
    monkeypatch.setattr("modelwatch.demo.run_stack", lambda once: called.append(once) or 7)
    assert [command("stack")[0], command("stack", "--once")[0]] == [7, 7]
    assert called == [False, True]


def test_demo_is_called(command, monkeypatch):
    """`demo` runs the demo, passes `--keep` on, and exits with its code."""
    called = []
    monkeypatch.setattr("modelwatch.demo.run", lambda keep: called.append(keep) or 7)
    assert [command("demo")[0], command("demo", "--keep")[0]] == [7, 7]
    assert called == [False, True]


def test_interrupted(command, monkeypatch):
    """Ctrl-C is exit code 130, without a traceback."""

    def interrupt(path):
        raise KeyboardInterrupt

    monkeypatch.setattr("modelwatch.files.read_table", interrupt)
    assert command("profile", "t.csv", "-o", "r.json") == (130, "", "")


def process(*arguments, **options):
    """`python -m modelwatch …` as a process of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MODELWATCH_")}
    environment.pop("PYTHONUNBUFFERED", None)  # a buffer that cannot be written is tried again at the exit
    return subprocess.run(
        [sys.executable, "-m", "modelwatch", *map(str, arguments)], env=environment, text=True, check=False,
        stdin=subprocess.DEVNULL, **options,
    )  # fmt: skip


def test_as_a_process(files):
    """`python -m modelwatch` works, with its exit codes, and writes nothing to stderr when all is well."""
    done = process("check", *files, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("0 of 3 features drifted")
    done = process("check", "missing.json", files[1], capture_output=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_a_reader_that_goes_away(files):
    """A closed pipe, as behind `| head`, is no error message."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = process("check", *files, stdout=writing, stderr=subprocess.PIPE)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk(files):
    """Output that cannot be written is exit code 2 and a sentence."""
    with open("/dev/full", "w") as full:
        done = process("check", *files, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr.startswith("modelwatch: Expected ")
    assert done.stderr.count("\n") == 1


HEAVY = """
import sys
import modelwatch
before = set(sys.modules)
from modelwatch.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
print(sorted(name for name in set(sys.modules) - before if name.startswith("modelwatch")))
"""


def test_help_loads_nothing_of_the_verbs():
    """`--help` imports no module of the package that only a verb needs."""
    done = subprocess.run([sys.executable, "-c", HEAVY], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['modelwatch.cli']"
