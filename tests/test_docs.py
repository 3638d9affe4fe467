"""README.md and docs/ say what is true: their code runs, their commands exist, and nothing is left out."""

from __future__ import annotations

import doctest
import functools
import hashlib
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import modelwatch

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "grafana").glob("*.md"))]

FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[\w-]*)[^\n]*\n(?P<code>.*?)^(?P=indent)```", re.DOTALL | re.MULTILINE
)
NOT_RUN = re.compile(r"<!-- not run: \S.*? -->\s*\Z", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    language: str
    code: str
    line: int  # of its first line of code, from 1
    run: bool  # no `<!-- not run: reason -->` right before it
    chain: str  # the `## ` heading that it stands under


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text("utf-8")
    found = []
    for match in FENCE.finditer(text):
        before = text[: match.start()]
        prose = FENCE.sub("", before)
        found.append(
            Block(
                language=match["language"],
                code=re.sub(rf"^{match['indent']}", "", match["code"], flags=re.MULTILINE),
                line=before.count("\n") + 2,
                run=NOT_RUN.search(before) is None,
                chain=(re.findall(r"^## .*$", prose, re.MULTILINE) or [""])[-1],
            )
        )
    return found


def commands(page: Path) -> list[str]:
    """The command lines of a page's shell blocks: without prompt, comment and output."""
    found = []
    for block in blocks(page):
        if block.language in {"console", "bash", "sh", "shell"}:
            lines = block.code.replace("\\\n", " ").splitlines()
            prompted = [line.strip()[2:] for line in lines if line.strip().startswith("$ ")]
            found += [re.sub(r"(^|\s)#.*", "", line).strip() for line in prompted or lines]
    return [line for line in found if line]


def first_cells(pages: list[Path]) -> set[str]:
    """Every name in backticks in the first column of a table."""
    rows = [line for page in pages for line in page.read_text("utf-8").splitlines() if line.lstrip().startswith("|")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row.lstrip().split("|")[1])}


@functools.cache
def help_of(*verbs: str) -> str | None:
    """What `modelwatch VERBS --help` prints; None if there is no such verb."""
    program = [sys.executable, "-c", "from modelwatch.cli import main; main()"]
    done = subprocess.run(
        [*program, *verbs, "--help"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    return done.stdout if done.returncode == 0 else None


def run(block: Block, namespace: dict[str, object], page: Path) -> None:
    """Run a block as if its page were a Python file, so that a traceback names the page's line."""
    if re.match(r"\s*>>> ", block.code):
        example = doctest.DocTestParser().get_doctest(block.code, namespace, page.name, str(page), block.line - 1)
        report: list[str] = []
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=report.append, clear_globs=False)
        namespace.update(example.globs)
        assert not report, "".join(report)
    else:
        exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), namespace)


def test_readme_is_there():
    """There is a README, and it shows code and commands."""
    assert README.is_file()
    assert any(block.language == "python" and block.run for block in blocks(README))
    assert {"make demo", "make test"} <= set(commands(README))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_runs(page, tmp_path, monkeypatch):
    """Every Python block runs as printed, in an empty directory that the page's blocks share.

    Blocks under one `## ` heading are one program: they share their names, and need none from other sections.
    """
    monkeypatch.chdir(tmp_path)
    namespaces: dict[str, dict[str, object]] = {}
    for block in blocks(page):
        if block.language in {"python", "pycon", "py"} and block.run:
            run(block, namespaces.setdefault(block.chain, {"__name__": "__main__"}), page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_says_its_language(page):
    """No block escapes the tests because its fence names no language."""
    assert [block.line for block in blocks(page) if not block.language] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page):
    """Every `modelwatch` command that a page shows exists with the options shown, and every `make` target too."""
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    wrong = []
    for command in commands(page):
        for part in re.split(r"&&|\|\||[;|]", command):
            make = re.match(r"\s*make((?:\s+[\w-]+)+)", part)
            if make and not set(make[1].split()) <= targets:
                wrong.append(part)
            own = re.match(r"\s*(?:[\w./-]*/|python3? -m )?modelwatch(?=\s|$)(?P<rest>.*)", part)
            if own and not is_command(own["rest"].split()):
                wrong.append(part)
    assert wrong == []


def is_command(words: list[str]) -> bool:
    """Whether `modelwatch WORDS` is a verb, if any, that `--help` lists, with options that its own help lists.

    The same goes for a verb of a verb, as in `modelwatch rules export`.
    """
    verbs: list[str] = []
    for word in words[:2]:
        if word.startswith("-") or not re.search(rf"\b{re.escape(word)}\b", help_of(*verbs) or ""):
            break
        verbs.append(word)
    if words and not words[0].startswith("-") and not verbs:
        return False
    page = help_of(*verbs) or help_of(*verbs[:1])
    options = {word.partition("=")[0] for word in words if word.startswith("-")}
    return page is not None and all(re.search(rf"{re.escape(option)}\b", page) for option in options)


def test_every_setting_is_documented():
    """Every field of Settings stands in the first column of a table of the README or docs/."""
    missing = [field for field in modelwatch.Settings.model_fields if field not in first_cells(PAGES)]
    assert missing == []


def test_every_metric_is_documented():
    """Every metric of the catalogue stands in the first column of a table of docs/metrics.md, and no other does."""
    from modelwatch.metrics.catalogue import CATALOGUE

    names = {getattr(metric, "name", metric) for metric in getattr(CATALOGUE, "values", lambda: CATALOGUE)()}
    documented = first_cells([ROOT / "docs" / "metrics.md"])
    assert names - documented == set()
    assert {name for name in documented if re.match(r"(model|modelwatch|http_server)_\w+\Z", name)} - names == set()


def test_every_recorded_series_is_documented():
    """Every series that the recording rules write for a window of an hour stands in docs/fleet.md, but for helpers."""
    from modelwatch.fleet.options import RuleOptions
    from modelwatch.fleet.recording import recorded_names

    text = (ROOT / "docs" / "fleet.md").read_text("utf-8")
    names = recorded_names(RuleOptions(windows=("1h",), statistics="all"))
    missing = {name for name in names if not re.search(rf"\b{name.split(':')[1]}\b", text)}
    assert missing == set()


def test_every_public_name_is_mentioned():
    """Every public name stands in the README or docs/."""
    text = "".join(page.read_text("utf-8") for page in PAGES)
    names = [name for name in modelwatch.__all__ if name != "__version__"]
    assert [name for name in names if not re.search(rf"\b{re.escape(name)}\b", text)] == []


@pytest.mark.parametrize("page", ["examples/bike_demand/ATTRIBUTION.md", "tests/data/README.md"])
def test_data_are_those_attributed(page):
    """The data files are byte for byte those whose origin and licence the page beside them names."""
    named = re.findall(r"^ +sha256 ([0-9a-f]{64})  (\S+)$", (ROOT / page).read_text("utf-8"), re.MULTILINE)
    assert named
    for digest, name in named:
        [path] = [path for folder in ("tests/data", "examples/bike_demand") for path in (ROOT / folder).glob(name)]
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
