"""The scripts beside the package: `make test` gets its programs by one call of apt-get, or says what to run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[1] / "tools"
SHELL = ("cat", "chmod", "cut", "env", "grep", "sort", "tr")  # what the script and the programs here are made of
PACKAGES = {
    "prometheus": ("prometheus", "promtool"),
    "prometheus-alertmanager": ("prometheus-alertmanager", "amtool"),
    "chromium": ("chromium",),
}
UPDATE = "apt-get update"
INSTALL = "apt-get install --yes --no-install-recommends"


class Machine:
    """A PATH with nothing on it but what a test puts there; with what its programs are called is written down."""

    def __init__(self, directory: Path) -> None:
        self.bin, self._calls = directory / "bin", directory / "calls"
        self.bin.mkdir()
        self._calls.touch()
        for name in SHELL:
            (self.bin / name).symlink_to(shutil.which(name))

    def program(self, *names: str, body: str = "") -> None:
        for name in names:
            (self.bin / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{self._calls}\n{body}\n')
            (self.bin / name).chmod(0o755)

    def apt_get(self, packages=tuple(PACKAGES), code=0) -> None:
        """An apt-get that brings these packages, and ends with this code."""
        cases = ""
        for package in packages:
            made = "".join(f"echo '#!/bin/sh' >{self.bin / n}; chmod +x {self.bin / n}; " for n in PACKAGES[package])
            cases += f"{package}) {made};;\n"
        many = f'for word in "$@"; do case "$word" in\n{cases}-) ;;\nesac; done\n' if packages else ""
        self.program("apt-get", body=f'{many}[ "$1" = update ] || exit {code}')

    def ensure(self) -> tuple[int, list[str]]:
        """Run the script: its exit code, and what it said on stderr."""
        path = {"PATH": str(self.bin)}
        command = ["/bin/sh", str(TOOLS / "ensure_programs.sh")]
        done = subprocess.run(command, env=path, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr.splitlines()

    def calls(self, name: str) -> list[str]:
        """How a program was called, without its name."""
        lines = self._calls.read_text().splitlines()
        return [line.removeprefix(f"{name} ").strip() for line in lines if line.startswith(f"{name} ")]


@pytest.fixture
def machine(tmp_path):
    """A machine without any of the programs, on which we are root."""
    found = Machine(tmp_path)
    found.program("id", body="echo 0")
    found.program("service", "systemctl")
    return found


def test_nothing_is_installed_where_all_is_there(machine):
    """With every program on PATH nothing is asked of apt-get, and nothing said."""
    machine.apt_get()
    machine.program(*(name for names in PACKAGES.values() for name in names))
    assert machine.ensure() == (0, [])
    assert machine.calls("apt-get") == []


def test_all_that_is_missing_comes_by_one_call(machine):
    """Without any program one update and one installation bring all three packages, and their daemons are stopped."""
    machine.apt_get()
    assert machine.ensure() == (0, [])
    update, install = machine.calls("apt-get")
    assert update == "update -qq"
    assert install == "install --yes --no-install-recommends chromium prometheus prometheus-alertmanager -qq"
    stopped = [call for name in ("service", "systemctl") for call in machine.calls(name)]
    assert len(stopped) == 2
    assert "prometheus-alertmanager" in " ".join(stopped)
    assert machine.ensure() == (0, [])
    assert len(machine.calls("apt-get")) == 2


def test_only_what_is_missing_is_asked_for(machine):
    """What is there, also by the name that its makers give it, is left alone, and so is its daemon."""
    machine.apt_get()
    machine.program("prometheus", "promtool", "alertmanager", "amtool")
    assert machine.ensure() == (0, [])
    assert machine.calls("apt-get")[1].split()[3:] == ["chromium", "-qq"]
    assert machine.calls("service") + machine.calls("systemctl") == []


def test_a_daemon_of_a_package_that_was_there_goes_on(machine):
    """If a package is there and one of its programs is not, its daemon is somebody's, and is not stopped."""
    machine.apt_get()
    machine.program("prometheus", "chromium", "prometheus-alertmanager", "amtool")
    machine.program("dpkg-query", body="printf installed")
    assert machine.ensure() == (0, [])
    assert machine.calls("apt-get")[1].split()[3:] == ["prometheus", "-qq"]
    assert machine.calls("service") + machine.calls("systemctl") == []


def test_each_program_that_cannot_come_is_a_sentence(machine):
    """Where apt-get fails, each program that is missing is named with its package and its use, and what to run."""
    machine.apt_get(packages=["prometheus"], code=100)
    machine.program("amtool")
    code, said = machine.ensure()
    assert code == 1
    assert [line.split("`")[1] for line in said[:-1]] == ["prometheus-alertmanager", "chromium"]
    assert (
        said[1] == "The tests need the program `chromium` on PATH, of Debian's package chromium, to look at the pages."
    )
    assert "Installing failed" in said[-1]
    assert said[-1].endswith(f"Run: {UPDATE} && {INSTALL} chromium prometheus prometheus-alertmanager")


def test_who_is_not_root_is_told_what_to_run(machine):
    """Without root and without sudo nothing is tried: each program is named, and one line to run with sudo."""
    machine.apt_get()
    machine.program("id", body="echo 1000")
    machine.program("prometheus", "promtool", "chromium")
    code, said = machine.ensure()
    assert (code, machine.calls("apt-get")) == (1, [])
    assert [line.split("`")[1] for line in said[:-1]] == ["prometheus-alertmanager", "amtool"]
    assert said[-1].endswith(f"Run: sudo {UPDATE} && sudo {INSTALL} prometheus-alertmanager")


def test_without_apt_get_releases_are_named(machine):
    """On a machine without apt-get it says where else the programs come from."""
    code, said = machine.ensure()
    assert code == 1
    assert len(said) == 6
    assert "prometheus.io/download" in said[-1]
