"""The list of faults: every one is there, and names tests that exist, or says why there is none."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROW = re.compile(r"^\| (\d+) \| (.+?) \| (.+) \|$", re.MULTILINE)
ROWS = [(int(number), fault, told) for number, fault, told in ROW.findall((TESTS / "FAULTS.md").read_text("utf-8"))]
NAMED = re.compile(r"`([\w/]+\.py)::([\w:]+)`")


def test_all_faults_are_listed():
    """The numbers go from 1 to 94, each once, and at least 80 have a test."""
    assert [number for number, *_ in ROWS] == list(range(1, 95))
    assert sum(bool(NAMED.search(told)) for *_, told in ROWS) >= 80


@pytest.mark.parametrize(("number", "told"), [(number, told) for number, _, told in ROWS])
def test_the_tests_of_a_fault_exist(number, told):
    """Each test that is named is a function of that file; a fault without one says why in some words."""
    named = NAMED.findall(told)
    for path, name in named:
        *classes, function = name.split("::")
        body = ast.parse((TESTS / path).read_text("utf-8")).body
        for kind in classes:
            body = next(node.body for node in body if isinstance(node, ast.ClassDef) and node.name == kind)
        names = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert function in names, f"fault {number}: {path} has no {name}"
    assert named or len(told.split()) >= 5
