"""The house plan of src/modelwatch, read with `ast`: floors, third-party column, forbidden things, sizes."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
SOURCE = TESTS.parent / "src" / "modelwatch"

# Module -> floor, with steps on it. Imports go strictly down. A new module is listed here, or the first test fails.
FLOORS = {
    "_types": 0, "_version": 0, "exceptions": 0, "settings": 0.1,
    "values": 1, "cells": 1.05, "kernels": 1, "significance": 1, "tables": 1, "fields": 1, "spans": 1, "aligned": 1,
    "detectors.base": 1, "metrics.catalogue": 1,
    "statistics": 1.1, "calibration": 1.1, "schema": 1.1, "layout": 1.1, "detectors.*": 1.1,
    "samples": 1.2, "detectors": 1.2,
    "feature": 2, "extract": 2, "reference": 2.1,
    "report": 3, "verdict": 3.1,
    "guard": 4, "reentry": 4, "files": 4, "series": 4, "exchange": 4, "buffer": 4, "window": 4.02, "rows": 4,
    "times": 4, "pulse": 4, "signals": 4,
    "slots": 4, "degraded": 4, "container": 4, "lodging": 4, "loads": 4, "shares": 4.05,
    "learning": 4.1, "origins": 4.1, "ignoring": 4, "tally": 4.1, "epoch": 4.1, "backtest": 4.1,
    "notices": 4.1, "segments": 4.1, "epochs": 4.2, "detection": 4.2, "workers": 4.2, "reading": 4.3,
    "engine": 5, "_fastapi_expected": 5, "_fastapi": 5.05, "_fastapi_endpoints": 5.05, "recorder": 5, "predictions": 5,
    "tagging": 5.1, "references": 5.1,
    "monitor": 6,
    "metrics.families": 7, "metrics.rising": 7, "metrics.cgroups": 7, "_fastapi_routes": 7,
    "metrics.pace": 7, "metrics.text": 7.05, "metrics.foreign": 7.05,
    "adding": 7, "telling": 7, "leading": 7.1, "publishing": 7.25,
    "metrics.*": 7.1, "metrics": 7.2, "routes": 7.1, "sharing": 7.3,
    "answering": 8, "flight": 8, "places": 8, "door": 8.02, "exposition": 8.05, "port": 8.1,
    "ending": 8, "request": 8.1, "asgi": 8.2,
    "page.figures": 8, "page.distributions": 8.1, "page.snapshot": 8.1, "page.document": 8.1, "page.history": 8.2,
    "page.state": 8.25, "page.serving": 8.3, "page": 8.4,
    "watch": 8, "claims": 8.1, "watched": 8.1, "capture": 8.2, "loading": 8,
    "fleet.*": 8, "fleet.alert": 8.1, "fleet.recording": 8.1, "fleet.kubernetes": 8.1,
    "fleet.model_alerts": 8.2, "fleet.service_alerts": 8.2, "fleet.alerts": 8.3, "fleet": 8.4, "exporting": 9.1,
    "instrument": 9, "demo.story": 9, "demo.stage": 9, "demo.firing": 9, "demo.show": 9.1, "demo.receiver": 9.1,
    "demo.traffic": 9.1, "demo.watch": 9.15, "demo.play": 9.2, "demo.stack": 9.2, "demo": 9.3,
    "doctor": 9.1, "cli": 9.4, "__init__": 9.4, "__main__": 9.5,
}  # fmt: skip

# Floor -> third-party packages that its modules may import, and what some modules may import besides.
THIRD_PARTY = {
    0: {"numpy", "pydantic", "pydantic_settings"},
    1: {"numpy", "scipy"},
    2: {"numpy"},
    3: {"numpy"},
    4: {"numpy"},
    5: {"numpy"},
    6: {"numpy"},
    7: {"numpy", "prometheus_client"},
    8: {"numpy", "prometheus_client"},
    9: {"prometheus_client"},
}
THIRD_PARTY_BESIDES = {
    "schema": {"pydantic"},  # validates the file
    "files": {"pyarrow"},  # where it is installed, for Parquet
    "_fastapi": {"fastapi", "starlette", "pydantic"},  # the files that know FastAPI's internals
    "_fastapi_expected": {"fastapi"},
    "_fastapi_routes": {"fastapi", "starlette"},
    "_fastapi_endpoints": {"fastapi", "starlette"},
    "routes": {"starlette"},
    "instrument": {"starlette"},
    "metrics.infra": {"psutil"},
    "metrics.runtime": {"anyio"},
    "door": {"pydantic"},  # the token's wrapping
    "metrics.gpu": {"pynvml"},
    "fleet.writing": {"yaml"},
    "demo": {"httpx", "numpy", "rich", "sklearn", "uvicorn"},
    "demo.*": {"httpx", "numpy", "rich"},
    "demo.stack": {"httpx", "yaml"},
}

# Floors 0 to 3 are pure: the same arguments give the same answer, at any time, on any machine.
IMPURE = {"asyncio", "io", "mmap", "os", "pathlib", "prometheus_client", "random", "secrets", "socket", "sqlite3",
          "subprocess", "tempfile", "threading", "time"}  # fmt: skip
# Module -> (imports it may have all the same, why).
IMPURE_ALLOWED: dict[str, tuple[set[str], str]] = {
    "settings": ({"os"}, "the environment is one of its sources"),
}

FORBIDDEN_MODULES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}  # reading them runs code
FORBIDDEN_CALLS = {"eval", "exec"}
LONGEST_FUNCTION = 60
LONGEST_MODULE = 350


@dataclass(frozen=True)
class Import:
    """One module that another one names in an import statement, wherever that stands."""

    name: str  # "numpy.linalg"; within the package without its name: "metrics.catalogue", "__init__"
    line: int
    own: bool
    typing_only: bool  # under `if TYPE_CHECKING:`

    @property
    def top(self) -> str:
        return self.name.partition(".")[0]


def module_name(path: Path) -> str:
    """Path in the package -> "cells", "metrics.drift"; a package is named by itself, the root "__init__"."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


PATHS = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text("utf-8"), str(path)) for name, path in PATHS.items()}

every_module = pytest.mark.parametrize("module", PATHS)


def matching(table, name):
    """Value of the most exact key of `table` that matches `name`; None without one."""
    for key in sorted(table, key=lambda key: key.count("*")):
        if fnmatchcase(name, key):
            return table[key]
    return None


def floor(module: str) -> float:
    """The floor of a module of the package; above the roof if FLOORS does not list it."""
    listed = matching(FLOORS, module)
    return 99 if listed is None else listed


def own_modules(module: str, node: ast.ImportFrom) -> list[str]:
    """The modules of the package that a `from … import …` of the package names."""
    if node.level:
        package = [] if module == "__init__" else module.split(".")
        if PATHS[module].name != "__init__.py":
            package = package[:-1]
        base = package[: len(package) - (node.level - 1)] + (node.module.split(".") if node.module else [])
    else:
        base = node.module.split(".")[1:]
    inner = [".".join([*base, alias.name]) for alias in node.names]
    outer = ".".join(base) or "__init__"
    return [name if name in PATHS else outer for name in inner]


def imports_of(module: str) -> Iterator[Import]:
    """Every import of a module, also those within functions."""
    typing_only = {
        id(inner)
        for node in ast.walk(TREES[module])
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top, _, rest = alias.name.partition(".")
                own = top == "modelwatch"
                yield Import((rest or "__init__") if own else alias.name, node.lineno, own, id(node) in typing_only)
        elif isinstance(node, ast.ImportFrom):
            own = bool(node.level) or node.module.partition(".")[0] == "modelwatch"
            for name in own_modules(module, node) if own else [node.module]:
                yield Import(name, node.lineno, own, id(node) in typing_only)


def test_there_is_something_to_read():
    """The tests below read the package that they are meant to read."""
    assert "__init__" in PATHS
    assert len(PATHS) >= 2


def test_every_module_has_a_floor():
    """Whoever adds a module says on which floor it lives."""
    assert [name for name in PATHS if floor(name) == 99] == []


@every_module
def test_imports_go_down(module):
    """A module imports from lower floors only, also within functions and for type checking."""
    upward = [
        f"line {found.line}: {found.name} (floor {floor(found.name)})"
        for found in imports_of(module)
        if found.own and floor(found.name) >= floor(module)
    ]
    assert upward == [], f"{module} is on floor {floor(module)}"


@every_module
def test_third_party_packages_stay_in_their_rooms(module):
    """A module imports the third-party packages of its floor and its own, no others."""
    allowed = (
        THIRD_PARTY.get(int(floor(module)), set())
        | (matching(THIRD_PARTY_BESIDES, module) or set())
        | {"typing_extensions"}
    )
    strangers = [
        f"line {found.line}: {found.name}"
        for found in imports_of(module)
        if not found.own
        and not found.typing_only
        and found.top not in sys.stdlib_module_names
        and found.top not in allowed
    ]
    assert strangers == [], f"{module} may import {sorted(allowed)}"


@pytest.mark.parametrize("module", [name for name in PATHS if floor(name) < 4])
def test_low_floors_are_pure(module):
    """Floors 0 to 3 know no clock, thread, file, network or Prometheus."""
    allowed, _why = IMPURE_ALLOWED.get(module, (set(), ""))
    impure = [
        f"line {found.line}: {found.name}"
        for found in imports_of(module)
        if not found.own and not found.typing_only and found.top in IMPURE - allowed
    ]
    opened = [f"line {node.lineno}: open()" for node in calls_of(module) if callee(node) == "open"]
    assert impure + opened == []


def calls_of(module: str) -> list[ast.Call]:
    """Every call in a module."""
    return [node for node in ast.walk(TREES[module]) if isinstance(node, ast.Call)]


def callee(call: ast.Call) -> str:
    """What is called, as it is written: "open", "yaml.load"."""
    return ast.unparse(call.func)


@every_module
def test_nothing_can_run_foreign_code(module):
    """No pickle or kin, no eval or exec, no yaml.load, no shell."""
    found = [f"line {i.line}: {i.name}" for i in imports_of(module) if not i.own and i.top in FORBIDDEN_MODULES]
    for call in calls_of(module):
        shell = any(keyword.arg == "shell" for keyword in call.keywords)
        allow_pickle = any(
            keyword.arg == "allow_pickle"
            and not (isinstance(keyword.value, ast.Constant) and keyword.value.value is False)
            for keyword in call.keywords
        )
        if callee(call) in FORBIDDEN_CALLS | {"yaml.load", "os.system", "os.popen"} or shell or allow_pickle:
            found.append(f"line {call.lineno}: {ast.unparse(call)[:60]}")
    assert found == []


@every_module
def test_no_assert_statements(module):
    """Checks survive `python -O`, which removes assert statements."""
    assert [node.lineno for node in ast.walk(TREES[module]) if isinstance(node, ast.Assert)] == []


@every_module
def test_rooms_stay_small(module):
    """No function has more than 60 lines, its docstring aside, and no module more than 350."""
    long = {
        node.name: length
        for node in ast.walk(TREES[module])
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := node.end_lineno - node.lineno + 1 - len((ast.get_docstring(node) or "").splitlines()))
        > LONGEST_FUNCTION
    }
    assert long == {}
    assert len(PATHS[module].read_text("utf-8").splitlines()) <= LONGEST_MODULE


@pytest.mark.parametrize("path", sorted(TESTS.rglob("test_*.py")), ids=lambda path: path.stem)
def test_every_test_carries_its_claim(path):
    """Every test says in its docstring what it claims."""
    silent = [
        node.name
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert silent == []


IMPORT_PROBE = """
import json, os, sys, threading
import fastapi  # what the user's service has anyway

def state():
    links = ["/proc/self/fd/" + name for name in os.listdir("/proc/self/fd")]
    return {os.readlink(link) for link in links if os.path.exists(link)}, {t.name for t in threading.enumerate()}

files, threads = state()
import modelwatch
files_after, threads_after = state()
heavy = ["scipy.stats", "pandas", "polars", "pyarrow", "pynvml", "rich", "sklearn", "httpx", "uvicorn"]
heavy = [name for name in heavy if name in sys.modules]
print(json.dumps([sorted(files_after - files), sorted(threads_after - threads), heavy]))
"""


def test_importing_costs_nothing_lasting():
    """`import modelwatch` starts no thread, leaves no file open and loads nothing heavy or optional."""
    done = subprocess.run([sys.executable, "-c", IMPORT_PROBE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    files, threads, heavy = json.loads(done.stdout)
    assert files == []
    assert threads == []
    assert heavy == []
