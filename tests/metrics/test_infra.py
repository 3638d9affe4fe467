"""The process and its container, on made-up trees of control groups and on the machine that runs the test."""

from __future__ import annotations

import math
import multiprocessing
import os
from types import SimpleNamespace

import psutil
import pytest

from modelwatch.metrics.catalogue import CATALOGUE
from modelwatch.metrics.cgroups import cpu_quota, find_branch, memory_limit, throttled_seconds, working_set
from modelwatch.metrics.infra import ProcessSource
from modelwatch.metrics.rising import Rising

NO_LIMIT = "9223372036854771712"
GIB = 2**30


@pytest.fixture
def tree(tmp_path):
    """Writes a tree: `tree("0::/a", {"a/cpu.max": "…"})`; returns the keyword arguments of a source that reads it."""

    def write(cgroup, files):
        (tmp_path / "proc/self").mkdir(parents=True, exist_ok=True)
        (tmp_path / "proc/self/cgroup").write_bytes(cgroup if isinstance(cgroup, bytes) else cgroup.encode())
        root = tmp_path / "cgroup"
        root.mkdir(exist_ok=True)
        for name, content in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return {"proc": tmp_path / "proc", "cgroups": root}

    return write


@pytest.fixture(autouse=True)
def big_machine(monkeypatch):
    """16 processors, all of them allowed, and 64 GiB."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    pages = 64 * GIB // 4096
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PHYS_PAGES": pages, "SC_PAGE_SIZE": 4096}[name])


def read(source):
    """The samples of one reading, by metric."""
    return {sample.metric: sample.value for sample in source()}


V2 = {
    "cgroup.controllers": "cpu memory",
    "pod/cpu.max": "150000 100000",
    "pod/memory.max": "max",
    "pod/app/cpu.max": "max 100000",
    "pod/app/memory.max": str(2 * GIB),
    "pod/app/memory.current": "1000000",
    "pod/app/memory.stat": "anon 600000\ninactive_file 300000\nactive_file 1\n",
    "pod/app/cpu.stat": "usage_usec 9\nnr_periods 4\nthrottled_usec 1\n",
    "pod/cpu.stat": "usage_usec 9\nnr_periods 4\nthrottled_usec 2500000\n",
}


def test_version_2(tree):
    """The tightest limit of all ancestors holds; throttling is that of its group, memory the own group's."""
    found = read(ProcessSource(**tree("0::/pod/app\n", V2)))
    assert found["model_cpu_limit_cores"] == 1.5
    assert found["model_memory_limit_bytes"] == 2 * GIB
    assert found["model_container_memory_working_set_bytes"] == 700_000
    assert found["model_container_cpu_throttled_seconds_total"] == 2.5


@pytest.mark.parametrize("cpu", ["cpu", "cpu,cpuacct"])
def test_version_1_nested(tree, cpu):
    """Version 1 keeps each controller in a tree of its own, -1 is no quota, and the parents count too."""
    files = {
        f"{cpu}/cpu.cfs_quota_us": "-1",
        f"{cpu}/cpu.cfs_period_us": "100000",
        f"{cpu}/docker/cpu.cfs_quota_us": "50000",
        f"{cpu}/docker/cpu.cfs_period_us": "100000",
        f"{cpu}/docker/cpu.stat": "nr_throttled 3\nthrottled_time 1500000000\n",
        f"{cpu}/docker/abc/cpu.cfs_quota_us": "400000",
        f"{cpu}/docker/abc/cpu.cfs_period_us": "100000",
        "memory/memory.limit_in_bytes": NO_LIMIT,
        "memory/docker/memory.limit_in_bytes": str(GIB),
        "memory/docker/abc/memory.limit_in_bytes": NO_LIMIT,
        "memory/docker/abc/memory.usage_in_bytes": "5000",
        "memory/docker/abc/memory.stat": "inactive_file 1\ntotal_inactive_file 2000\n",
    }
    found = read(ProcessSource(**tree("5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/x\n", files)))
    assert found["model_cpu_limit_cores"] == 0.5
    assert found["model_memory_limit_bytes"] == GIB
    assert found["model_container_memory_working_set_bytes"] == 3000
    assert found["model_container_cpu_throttled_seconds_total"] == 1.5


def test_hybrid(tree):
    """Where both versions are mounted, each controller is read where the kernel has it."""
    files = {
        "memory/app/memory.limit_in_bytes": str(GIB),
        "unified/app/cpu.max": "200000 100000",
        "unified/app/memory.max": "1",  # never there in truth: the controller is in version 1
    }
    found = read(ProcessSource(**tree("4:memory:/app\n0::/app\n", files)))
    assert found["model_memory_limit_bytes"] == GIB
    assert found["model_cpu_limit_cores"] == 2


@pytest.mark.parametrize("path", ["/docker/abc/inner", "/docker/abc/inner (deleted)", "/", "/../../elsewhere"])
def test_a_container_without_its_own_view_of_paths(tree, path):
    """A path of the host's of which the container sees only the end, or nothing, leads to what it does see."""
    files = {
        "cgroup.controllers": "",
        "memory.max": str(3 * GIB),
        "inner/cpu.max": "100000 100000",
        "elsewhere/memory.max": "1",
    }
    found = read(ProcessSource(**tree(f"0::{path}", files)))
    assert found["model_memory_limit_bytes"] == 3 * GIB
    assert found["model_cpu_limit_cores"] == (1 if path.endswith("inner") else 16)


def test_parents_that_a_container_does_not_see(tree):
    """Version 1 says itself what the hidden parents allow."""
    files = {"memory/memory.limit_in_bytes": NO_LIMIT, "memory/memory.stat": f"hierarchical_memory_limit {GIB}\n"}
    assert read(ProcessSource(**tree("4:memory:/docker/abc\n", files)))["model_memory_limit_bytes"] == GIB


@pytest.mark.parametrize("cgroup", ["", "0::/\n", "4:memory:/a\n3:cpu:/a\n", b"\xff\xfe garbage\n::::\n:"])
def test_without_control_groups(tree, cgroup):
    """Without control groups the machine is the limit, and nothing is said about a container."""
    found = read(ProcessSource(**tree(cgroup, {})))
    assert found["model_cpu_limit_cores"] == 16
    assert found["model_memory_limit_bytes"] == 64 * GIB
    assert not [name for name in found if name.startswith("model_container_")]


def test_no_limit_is_the_machine(tree):
    """The number that version 1 writes for "none" is not shown as a limit."""
    files = {"memory/memory.limit_in_bytes": NO_LIMIT, "cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}
    found = read(ProcessSource(**tree("4:memory:/\n3:cpu:/\n", files)))
    assert (found["model_memory_limit_bytes"], found["model_cpu_limit_cores"]) == (64 * GIB, 16)


DAMAGED = [
    "",
    "max",
    "abc",
    "0",
    "-5 100000",
    "100000 0",
    "100000 -1",
    "nan nan",
    "inf inf",
    "9" * 5000,
    b"\xff\0",
    "\n",
]


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_files(tree, content):
    """A damaged file is no limit and no number; nothing raises, and what is whole is still read."""
    files = {f"app/{name}": content for name in ("cpu.max", "memory.max", "memory.current", "memory.stat", "cpu.stat")}
    files |= {"cgroup.controllers": "", "memory.max": str(GIB), "cpu.max": "300000 100000"}
    found = read(ProcessSource(**tree("0::/app", files)))
    assert found["model_cpu_limit_cores"] == 3
    assert found["model_memory_limit_bytes"] == GIB
    assert not [name for name in found if name.startswith("model_container_")]


def test_directories_in_place_of_files(tree, tmp_path):
    """A directory where a file is expected is unreadable, not an error."""
    where = tree("0::/", {"cgroup.controllers": "", "memory.max/x": "", "cpu.max/x": "", "memory.current/x": ""})
    assert read(ProcessSource(**where))["model_cpu_limit_cores"] == 16


def test_affinity_binds(tree, monkeypatch):
    """Processors that the process may not run on do not count, also under a wider quota."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 4})
    where = tree("0::/", {"cgroup.controllers": "", "cpu.max": "800000 100000"})
    assert read(ProcessSource(**where))["model_cpu_limit_cores"] == 2


def test_limits_are_read_again(tree, clock):
    """A changed limit is seen after ten seconds, not before: limits are not read at every scrape."""
    source = ProcessSource(**tree("0::/", {"cgroup.controllers": "", "cpu.max": "100000 100000"}), clock=clock)
    assert read(source)["model_cpu_limit_cores"] == 1
    tree("0::/", {"cpu.max": "200000 100000"})
    clock.advance(9)
    assert read(source)["model_cpu_limit_cores"] == 1
    clock.advance(1)
    assert read(source)["model_cpu_limit_cores"] == 2


def test_throttled_time_never_falls(tree, clock):
    """A group that was made anew begins at 0; the counter stays, and follows from there."""
    where = tree("0::/", {"cgroup.controllers": "", "cpu.stat": "throttled_usec 3000000"})
    source, seen = ProcessSource(**where, clock=clock), []
    for microseconds in (3_000_000, 1_000_000, 2_000_000):
        tree("0::/", {"cpu.stat": f"throttled_usec {microseconds}"})
        seen.append(read(source)["model_container_cpu_throttled_seconds_total"])
    assert seen == [3, 3, 4]


def test_working_set_is_not_negative(tree):
    """The two files are not read at one instant; what comes out below 0 is 0."""
    files = {"cgroup.controllers": "", "memory.current": "10", "memory.stat": "inactive_file 20"}
    assert read(ProcessSource(**tree("0::/", files)))["model_container_memory_working_set_bytes"] == 0


def test_branch_functions_say_what_is_unknown(tree):
    """An existing branch without files has no quota, no limit and no readings."""
    where = tree("0::/", {"cgroup.controllers": ""})
    branch = find_branch("cpu", where["proc"], where["cgroups"])
    assert cpu_quota(branch).cores == memory_limit(branch) == math.inf
    assert math.isnan(working_set(branch))
    assert math.isnan(throttled_seconds(branch, branch.groups[0]))


OWN = {
    "memory_info": {"model_process_resident_memory_bytes"},
    "num_fds": {"model_process_open_fds"},
    "num_threads": {"model_process_threads"},
    "io_counters": {"model_disk_read_bytes_total", "model_disk_written_bytes_total"},
}


@pytest.mark.parametrize("error", [psutil.AccessDenied(1), FileNotFoundError(), AssertionError(), ValueError()])
@pytest.mark.parametrize("function", OWN)
def test_a_failing_reading_costs_only_itself(function, error, monkeypatch):
    """What may not be read is absent, never 0, and all else is still there."""
    whole = set(read(ProcessSource()))

    def fail(self):
        raise error

    monkeypatch.setattr(psutil.Process, function, fail)
    assert set(read(ProcessSource())) == whole - OWN[function]


@pytest.mark.parametrize("function", ["num_fds", "io_counters"])
def test_functions_that_psutil_has_on_other_systems_only(function, monkeypatch):
    """A system for which psutil lacks a function lacks the metric."""
    monkeypatch.delattr(psutil.Process, function)
    assert not set(read(ProcessSource())) & OWN[function]


def test_a_process_that_cannot_be_opened(monkeypatch):
    """Without /proc the processor time is still known."""

    def refuse(pid):
        raise psutil.NoSuchProcess(pid)

    monkeypatch.setattr(psutil, "Process", refuse)
    found = read(ProcessSource())
    assert found["model_process_cpu_seconds_total"] > 0
    assert "model_process_resident_memory_bytes" not in found


def test_network(monkeypatch):
    """The bytes of all interfaces but the loopback, and never fewer than before when one goes or begins anew."""
    steps = [
        {"lo": 1_000, "eth0": 100, "eth1": 10},
        {"lo": 2_000, "eth0": 150},
        {"lo": 3_000, "eth0": 20, "eth2": 5},
        {"lo": 3_000, "eth0": 21, "eth2": 5},
    ]
    received, sent = [], []
    source = ProcessSource()
    for step in steps:
        nics = {name: SimpleNamespace(bytes_recv=value, bytes_sent=2 * value) for name, value in step.items()}
        monkeypatch.setattr(psutil, "net_io_counters", lambda nics=nics, **options: nics)
        found = read(source)
        received.append(found["model_network_receive_bytes_total"])
        sent.append(found["model_network_transmit_bytes_total"])
    assert received == [110, 160, 165, 166]
    assert sent == [2 * value for value in received]


def test_network_that_cannot_be_read(monkeypatch):
    """A reading in between that fails leaves a gap, not a step back."""
    source = ProcessSource()
    before = read(source)["model_network_receive_bytes_total"]
    with monkeypatch.context() as patch:
        patch.setattr(psutil, "net_io_counters", lambda **options: 1 / 0)
        assert "model_network_receive_bytes_total" not in read(source)
    assert read(source)["model_network_receive_bytes_total"] >= before


def test_the_machine_at_hand():
    """On this machine the readings are those of the system, and all are in the catalogue's infra layer."""
    found = read(ProcessSource())
    assert set(found) <= {entry.name for entry in CATALOGUE.values() if entry.layer == "infra"}
    assert found["model_process_resident_memory_bytes"] == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
    assert found["model_process_open_fds"] >= 3
    assert found["model_cpu_limit_cores"] > 0


def test_files_and_threads_are_not_kept():
    """A thousand readings leave no file open."""
    source = ProcessSource(clock=iter(range(0, 10**6, 100)).__next__)
    before = read(source)["model_process_open_fds"]
    for _ in range(1000):
        found = read(source)
    assert found["model_process_open_fds"] == before


def _child(source, pipe):
    found = read(source)
    pipe.send((found["model_process_cpu_seconds_total"], found["model_process_threads"]))


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # other tests' threads; the child uses none
def test_a_forked_child_reads_itself():
    """A child starts anew, also if the parent held the lock at the fork."""
    source = ProcessSource()
    source()
    here, there = multiprocessing.Pipe(duplex=False)
    with source._readings.lock:
        child = multiprocessing.get_context("fork").Process(target=_child, args=(source, there))
        child.start()
    try:
        assert here.poll(30), "the child hangs"
        seconds, threads = here.recv()
    finally:
        child.kill()
        child.join()
        child.close()
        here.close()
        there.close()
    assert threads >= 1
    assert seconds < read(source)["model_process_cpu_seconds_total"]


def test_rising_ignores_what_it_cannot_compare():
    """A reading that wavers is counted once."""
    counter = Rising()
    assert [counter.add({"x": value}) for value in (10, 9, 10, 11)] == [10, 10, 11, 12]
