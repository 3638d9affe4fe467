"""`modelwatch …`: profile, check, backtest, doctor, demo, stack; grafana, rules, k8s (in `exporting.py`).

Each verb imports what it needs when it runs. Exit codes: 0 all is well, 1 it is not (drifted; no endpoint is watched),
2 the input cannot be used: then one sentence on stderr says why.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from ._version import __version__
from .exceptions import ModelWatchError, TableError

if TYPE_CHECKING:
    from .files import ReferenceProfile
    from .settings import Settings

_UNITS = {"": 1.0, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_EXPORTS = {
    "grafana": "the dashboards for Grafana, with provisioning, rules and runbook",
    "rules": "the recording and alert rules for Prometheus",
    "k8s": "a PodMonitor, PrometheusRules and the dashboards for a cluster",
}
_TRUTHS = {"True": True, "true": True, "TRUE": True, "False": False, "false": False, "FALSE": False}


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run a verb and exit. `argv`: by default the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names of files and columns may hold what it cannot encode
            stream.reconfigure(errors="backslashreplace")
    try:
        arguments = _parser(sys.argv[1:] if argv is None else argv).parse_args(argv)
        code = arguments.verb(arguments)
        sys.stdout.flush()
    except ModelWatchError as error:
        print(f"modelwatch: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # as of `modelwatch check … | head`
        code = 141
        _drop_stdout()
    except OSError as error:
        print(f"modelwatch: Expected to be able to read and write, but {error}.", file=sys.stderr)
        code = 2
        _drop_stdout()
    sys.exit(code)


def _drop_stdout() -> None:
    """Nobody takes what is still to be written: the interpreter must not try, and fail, when it exits."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # no real file, as under test
        return


def _parser(argv: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "modelwatch", description="Tells whether the data that a model gets still look like those it was trained on."
    )
    parser.add_argument("--version", action="version", version=f"modelwatch {__version__}")
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    tables = "Tables: .csv, .tsv (also .gz); .parquet if pyarrow is installed."
    service = (
        "ALPHA, FLOOR, SHARE_FLOOR and MIN_ROWS are those of the service: 0.001, 0.05, 0.01, 200, or MODELWATCH_…."
    )

    def verb(name: str, run: Callable[[argparse.Namespace], int], text: str, more: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=f"{text[:1].upper()}{text[1:]}.", epilog=more)
        added.set_defaults(verb=run)
        return added

    _profile_options(verb("profile", _profile, "make the reference of a table of training data", tables))
    more = f"Exit code: 0 healthy, 1 drifted, 2 unusable input. {service} {tables}"
    _common_options(verb("check", _check, "compare a table with a reference", more))
    more = f"Lengths of time: 90s, 15min, 12h, 7d, 2w. {service} {tables}"
    text = "tell how often the verdict would have alarmed over a table of the past"
    _backtest_options(verb("backtest", _backtest, text, more))
    more = "Exit code: 0 an endpoint feeds the window, 1 none does, 2 unusable input."
    _doctor_options(verb("doctor", _doctor, "tell what would be watched of an app, without serving it", more))
    more = 'Needs `pip install "modelwatch[demo]"`.'
    demo = verb("demo", _demo, "run the example: a bike rental model through two years of traffic", more)
    demo.add_argument("--keep", action="store_true", help="go on serving afterwards, to look around")
    more = 'Needs `pip install "modelwatch[demo]"`, and the programs prometheus and prometheus-alertmanager.'
    stack = verb("stack", _stack, "run the example as a fleet: three replicas, Prometheus, Alertmanager", more)
    stack.add_argument("--once", action="store_true", help="end when an alert over drift was told; 0 if it was")
    for name, text in _EXPORTS.items():
        added = verbs.add_parser(name, help=f"`{name} export` writes {text}", description=f"Writes {text}.")
        if name in argv:  # its options are those of modules that no other verb needs
            from .exporting import add_export

            add_export(added, name)
    return parser


def _profile_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", metavar="TABLE", help="training data")
    text = "where to write the reference, as JSON; a reference that is there is replaced, another file never"
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help=text)
    for option, text in {
        "--features": "columns to profile; default: all that are not named below",
        "--categorical": "columns of numbers that are categories; text and true/false are anyway",
        "--hash-categories": "columns whose categories' names must not appear in the file",
    }.items():
        parser.add_argument(option, metavar="A,B", type=_names, help=text)
    for option, text in {
        "--prediction": "column of what a model returned for these rows",
        "--confidence": "column of its confidence",
        "--target": "column of the true values; not profiled",
        "--time": "column that orders the rows; default: as they come",
    }.items():
        parser.add_argument(option, metavar="COLUMN", help=text)


def _common_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("reference", metavar="REFERENCE", help="what `modelwatch profile` wrote")
    parser.add_argument("table", metavar="TABLE", help="rows that a model was given")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--min-rows", metavar="N", type=_count, help="rows below which nothing is said of a feature")


def _backtest_options(parser: argparse.ArgumentParser) -> None:
    _common_options(parser)
    parser.add_argument("--time", metavar="COLUMN", required=True, help="times of the rows: ISO 8601, or seconds")
    window = parser.add_mutually_exclusive_group()
    window.add_argument("--window", metavar="TIME", type=_seconds, default=7 * 86_400.0, help="its length; default: 7d")
    window.add_argument("--rows", metavar="N", type=_count, help="a window of the last N rows instead")
    parser.add_argument(
        "--step", metavar="TIME", help="what it moves on by, with --rows also in rows; default: a seventh of it"
    )


def _doctor_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("app", metavar="MODULE:APP", help="as for uvicorn; or MODULE:CREATE_APP()")
    parser.add_argument("--reference", metavar="FILE", help="to try, in place of the app's own if it has one")
    parser.add_argument("--model-name", metavar="NAME", help="of the model, if the app has several or none yet")


def _names(text: str) -> list[str]:
    """Names with commas between them; one that has commas itself in quotes, as in CSV."""
    return [name.strip() for name in next(csv.reader([text], skipinitialspace=True), []) if name.strip()]


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text[:15]) <= 10**9:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d{1,12}(?:\.\d{1,9})?)(s|min|h|d|w|)", text.strip())
    seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
    if not 0 < seconds <= 1e10:
        raise argparse.ArgumentTypeError(f"expected a length of time such as 90s, 15min, 12h, 7d or 2w, got {text!r}")
    return seconds


def _profile(arguments: argparse.Namespace) -> int:
    from .aligned import aligned
    from .calibration import SIZES
    from .files import ReferenceProfile, check_output

    check_output(arguments.output)
    profile = ReferenceProfile.fit(
        _read(arguments.table),
        features=arguments.features,
        categorical=arguments.categorical,
        prediction=arguments.prediction,
        confidence=arguments.confidence,
        target=arguments.target,
        time=arguments.time,
        hash_categories=arguments.hash_categories or (),
    )
    profile.save(arguments.output)
    sizes = [size for size in SIZES if any(floor.rows == size for f in profile.features for floor in f.floors)]
    lines = [["feature", "kind", "bins", "rows", *(f"floor at {size}" for size in sizes)]]
    for feature, rows in zip(profile.features, profile.value_rows.tolist(), strict=True):
        floors = {floor.rows: f"{floor.distance:.3f}" for floor in feature.floors}
        own = [floors.get(size, "") for size in sizes]
        lines.append([feature.name, feature.cells.kind, str(len(feature.cells.bins)), str(rows), *own])
    print(f"{aligned(lines, left=2)}\n\nreference {profile.id}: {profile.rows} rows, written to {arguments.output}")
    if not sizes:
        print(f"Below {8 * SIZES[0]} rows no floor can be calibrated: what has a rhythm may alarm without cause.")
    elif arguments.time is None:
        print("The floors take the rows to be in the order of time; if they are not, name its column with --time.")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from .verdict import compare

    settings, reference = _settings_and_reference(arguments)
    table = _read(arguments.table, reference)
    limits = _limits(settings, arguments)
    report = compare(reference, reference.count(table), **limits)
    print(report.to_json() if arguments.json else report)
    if all(feature.drifted is None for feature in report):
        raise TableError(
            f"Expected at least {report.min_rows} rows with a value, to say anything, got a table of {report.rows} "
            "rows. Give more rows, or lower --min-rows."
        )
    return 1 if report.drifted else 0


def _backtest(arguments: argparse.Namespace) -> int:
    from .backtest import backtest

    step: dict[str, Any] = {}
    if arguments.step is not None:
        by_rows = arguments.rows is not None and arguments.step.isdigit()
        try:
            step = {"step_rows": _count(arguments.step)} if by_rows else {"step_seconds": _seconds(arguments.step)}
        except argparse.ArgumentTypeError as error:
            raise TableError(f"Argument --step: {error}.") from error
    settings, reference = _settings_and_reference(arguments)
    found = backtest(
        reference,
        _read(arguments.table, reference),
        time=arguments.time,
        window_seconds=arguments.window,
        window_rows=arguments.rows,
        **step,
        **_limits(settings, arguments),
    )
    print(found.to_json() if arguments.json else found)
    if not found.evaluations:
        raise TableError(
            f"Expected windows of at least {found.min_rows} rows, to say anything, got none. "
            "Choose a longer --window, or lower --min-rows."
        )
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from .doctor import examine

    found = examine(arguments.app, reference=arguments.reference, model_name=arguments.model_name)
    print(found)
    return 0 if found.feeding else 1


def _demo(arguments: argparse.Namespace) -> int:
    from .demo import run

    return run(keep=arguments.keep)


def _stack(arguments: argparse.Namespace) -> int:
    from .demo import run_stack

    return run_stack(once=arguments.once)


def _settings_and_reference(arguments: argparse.Namespace) -> tuple[Settings, ReferenceProfile]:
    from .files import ReferenceProfile
    from .settings import Settings

    settings = Settings()
    return settings, ReferenceProfile.load(arguments.reference, max_bytes=settings.max_reference_bytes)


def _limits(settings: Settings, arguments: argparse.Namespace) -> dict[str, Any]:
    """What decides a verdict, as in the service that has the same environment."""
    limits = {name: getattr(settings, name) for name in ("alpha", "floor", "share_floor", "min_rows")}
    return limits if arguments.min_rows is None else {**limits, "min_rows": arguments.min_rows}


def _read(path: str, reference: ReferenceProfile | None = None) -> Any:
    """A table. CSV has no types, and one field that is no number makes text of a column: so mend what can be known."""
    from .files import read_table

    table = read_table(path)
    if type(table) is not dict:
        return table
    features = () if reference is None else reference.features
    numeric = {feature.column for feature in features if feature.cells.kind == "numeric"}
    return {name: _typed(column, numeric=name in numeric) for name, column in table.items()}


def _typed(column: list[Any], *, numeric: bool) -> list[Any]:
    """A column of CSV: truths instead of their names; what is to be numeric number by number."""
    if not any(isinstance(value, str) for value in column):
        return column
    if numeric:
        return [_number(value) for value in column]
    if all(value is None or value in _TRUTHS for value in column):
        return [None if value is None else _TRUTHS[value] for value in column]
    return column


def _number(value: Any) -> Any:
    """The number in a field, or the text as it is: that counts as of a wrong type."""
    try:
        return None if value is None else float(value)
    except ValueError:
        return value
