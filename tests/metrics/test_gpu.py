"""GPUs: on a made-up NVML (`FakeNvml`: no test here has seen a device) and on the real package without a driver."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
from types import SimpleNamespace

import pytest

from modelwatch.metrics.catalogue import CATALOGUE
from modelwatch.metrics.gpu import Device, GpuSource, visible

UUIDS = ["GPU-aaaa1111", "GPU-aaaa2222", "GPU-bbbb3333"]


class FakeNvml:
    """Stands for the module `pynvml` with three GPUs, the last with two MIG slices. A fake: there is no driver."""

    class NVMLError(Exception):
        """The root of its errors."""

    def __init__(self):
        self.inits = 0
        self.calls = 0
        self.broken = set()  # (function, handle), or function
        self.energy = 5_000
        self.rows = {}

    def _ask(self, function, handle=None):
        self.calls += 1
        if function in self.broken or (function, handle) in self.broken:
            raise self.NVMLError(f"{function}: Not Supported")

    def nvmlInit(self):  # noqa: N802 - NVML's name
        self._ask("nvmlInit")
        self.inits += 1

    def nvmlDeviceGetCount(self):  # noqa: N802
        self._ask("nvmlDeviceGetCount")
        return len(UUIDS)

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        self._ask("nvmlDeviceGetHandleByIndex", index)
        return index

    def nvmlDeviceGetUUID(self, handle):  # noqa: N802
        self._ask("nvmlDeviceGetUUID", handle)
        return UUIDS[handle] if isinstance(handle, int) else f"MIG-{handle}"

    def nvmlDeviceGetMaxMigDeviceCount(self, handle):  # noqa: N802
        self._ask("nvmlDeviceGetMaxMigDeviceCount", handle)
        return 3 if handle == 2 else 0

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle, index):  # noqa: N802
        self._ask("nvmlDeviceGetMigDeviceHandleByIndex", handle)
        if index == 1:
            raise self.NVMLError("Not Found")
        return f"slice{index}"

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802
        self._ask("nvmlDeviceGetMemoryInfo", handle)
        return SimpleNamespace(used=100, total=1000, free=900)

    def nvmlDeviceGetComputeRunningProcesses(self, handle):  # noqa: N802
        self._ask("nvmlDeviceGetComputeRunningProcesses", handle)
        return self.rows.get(handle, [])

    def nvmlDeviceGetUtilizationRates(self, handle):  # noqa: N802
        self._ask("nvmlDeviceGetUtilizationRates", handle)
        return SimpleNamespace(gpu=75, memory=10)

    def nvmlDeviceGetTemperature(self, handle, sensor):  # noqa: N802
        self._ask("nvmlDeviceGetTemperature", handle)
        return 40 + sensor

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):  # noqa: N802
        self._ask("nvmlDeviceGetTotalEnergyConsumption", handle)
        return self.energy


@pytest.fixture
def nvml():
    """A made-up NVML."""
    return FakeNvml()


@pytest.fixture
def proc(tmp_path):
    """A /proc of a process that is in no container."""
    (tmp_path / "self/ns").mkdir(parents=True)
    (tmp_path / "self/ns/pid").symlink_to("pid:[4026531836]")
    return tmp_path


def read(source):
    """The samples of one reading, by metric and gpu_id."""
    return {(sample.metric, *sample.labels): sample.value for sample in source()}


def ids(source):
    """The devices that are shown, in order."""
    return list(dict.fromkeys(sample.labels[0] for sample in source()))


def test_all_readings(nvml, proc, clock):
    """Bytes, ratio, degrees and joules of each device, under NVML's index; all of them in the catalogue."""
    nvml.rows = {1: [SimpleNamespace(pid=os.getpid(), usedGpuMemory=30), SimpleNamespace(pid=1, usedGpuMemory=50)]}
    found = read(GpuSource(nvml=nvml, environ={}, proc=proc, clock=clock))
    assert {name for name, _ in found} == {entry.name for entry in CATALOGUE.values() if entry.layer == "gpu"}
    assert found["model_gpu_memory_bytes", "0"] == 100
    assert found["model_gpu_memory_limit_bytes", "1"] == 1000
    assert found["model_gpu_utilization_ratio", "2"] == 0.75
    assert found["model_gpu_temperature_celsius", "0"] == 40
    assert found["model_gpu_energy_joules_total", "0"] == 5
    assert [key for key in found if "process" in key[0]] == [("model_gpu_process_memory_bytes", "1")]
    assert found["model_gpu_process_memory_bytes", "1"] == 30


@pytest.mark.parametrize(
    ("chosen", "shown"),
    [
        (None, ["0", "1", "2"]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("1", ["1"]),
        ("2,0", ["2", "0"]),
        (" 2 , 0 ", ["2", "0"]),
        ("0,-1,1", ["0"]),
        ("0,7,1", ["0"]),
        ("1,1", []),
        ("99999999999999999999", []),
        ("GPU-aaaa2222", ["1"]),
        ("GPU-b,GPU-aaaa1", ["2", "0"]),
        ("GPU-aaaa", []),
        ("GPU-cccc", []),
        ("aaaa1111", []),
        ("MIG-slice2", ["2:2"]),
        ("MIG-slice2,MIG-slice0", ["2:2", "2:0"]),
        ("MIG-slice", []),
        ("0,GPU-aaaa1111", []),
    ],
)
def test_visible_devices(nvml, proc, clock, chosen, shown):
    """Only the devices that CUDA_VISIBLE_DEVICES leaves are shown, in the way in which CUDA reads it."""
    environ = {} if chosen is None else {"CUDA_VISIBLE_DEVICES": chosen}
    assert ids(GpuSource(nvml=nvml, environ=environ, proc=proc, clock=clock)) == shown


FUNCTIONS = {
    "nvmlDeviceGetMemoryInfo": {"model_gpu_memory_bytes", "model_gpu_memory_limit_bytes"},
    "nvmlDeviceGetUtilizationRates": {"model_gpu_utilization_ratio"},
    "nvmlDeviceGetTemperature": {"model_gpu_temperature_celsius"},
    "nvmlDeviceGetTotalEnergyConsumption": {"model_gpu_energy_joules_total"},
    "nvmlDeviceGetComputeRunningProcesses": set(),
    "nvmlDeviceGetMaxMigDeviceCount": set(),
    "nvmlDeviceGetUUID": set(),
}


@pytest.mark.parametrize("missing", [True, False], ids=["unknown to the package", "not supported"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_an_unsupported_call_costs_only_itself(nvml, proc, function, missing, monkeypatch):
    """A device that does not support a reading, or a package without the function, lacks that metric only."""
    whole = {metric for metric, _ in read(GpuSource(nvml=nvml, environ={}, proc=proc))}
    if missing:
        monkeypatch.delattr(FakeNvml, function)
    else:
        nvml.broken = {function}
    found = {metric for metric, _ in read(GpuSource(nvml=nvml, environ={}, proc=proc))}
    assert found == whole - FUNCTIONS[function]


def test_a_failing_device_costs_only_itself(nvml, proc, clock):
    """A device without a handle is left out, and the others keep their index."""
    nvml.broken = {("nvmlDeviceGetHandleByIndex", 1)}
    assert ids(GpuSource(nvml=nvml, environ={}, proc=proc, clock=clock)) == ["0", "2"]
    chosen = {"CUDA_VISIBLE_DEVICES": "2,1"}
    assert ids(GpuSource(nvml=nvml, environ=chosen, proc=proc, clock=clock)) == ["2"]


def test_energy_never_falls(nvml, proc, clock):
    """A driver that begins at 0 again does not take back what was counted."""
    source, seen = GpuSource(nvml=nvml, environ={}, proc=proc, clock=clock), []
    for nvml.energy in (5_000, 1_000, 3_000):
        seen.append(read(source)["model_gpu_energy_joules_total", "0"])
        clock.advance(1)
    assert seen == [5, 5, 7]


def test_process_ids_of_a_container_are_not_compared(nvml, tmp_path, clock):
    """NVML lists the host's process ids: in a container one that is equal by chance is not taken for the own one."""
    (tmp_path / "self/ns").mkdir(parents=True)
    (tmp_path / "self/ns/pid").symlink_to("pid:[4026532201]")
    nvml.rows = {0: [SimpleNamespace(pid=os.getpid(), usedGpuMemory=30)]}
    found = read(GpuSource(nvml=nvml, environ={}, proc=tmp_path, clock=clock))
    assert not [key for key in found if "process" in key[0]]


def test_process_memory_that_the_driver_does_not_tell(nvml, proc, clock):
    """A row without a number is no 0."""
    nvml.rows = {0: [SimpleNamespace(pid=os.getpid(), usedGpuMemory=None)]}
    found = read(GpuSource(nvml=nvml, environ={}, proc=proc, clock=clock))
    assert not [key for key in found if "process" in key[0]]


def test_readings_are_kept_for_a_second(nvml, proc, clock):
    """Several scrapes within a second ask the driver once."""
    source = GpuSource(nvml=nvml, environ={}, proc=proc, clock=clock)
    source()
    before = nvml.calls
    clock.advance(0.9)
    source()
    assert nvml.calls == before
    clock.advance(0.1)
    source()
    assert nvml.calls > before
    assert nvml.inits == 1


def test_a_driver_that_goes_and_comes_back(nvml, proc, clock):
    """When no device answers any more, NVML is begun anew, a minute later."""
    source = GpuSource(nvml=nvml, environ={}, proc=proc, clock=clock)
    source()
    nvml.broken = set(FUNCTIONS)
    clock.advance(1)
    assert source() == []
    nvml.broken = set()
    clock.advance(59)
    assert source() == []
    clock.advance(1)
    assert ids(source) == ["0", "1", "2"]
    assert nvml.inits == 2


@pytest.mark.parametrize("function", ["nvmlInit", "nvmlDeviceGetCount"])
def test_a_driver_that_refuses(nvml, proc, clock, function, caplog):
    """Without a driver or a permission there is no metric, no error, one line of log; a second look follows later."""
    caplog.set_level(logging.DEBUG, logger="modelwatch")
    nvml.broken = {function}
    source = GpuSource(nvml=nvml, environ={}, proc=proc, clock=clock)
    for _ in range(3):
        assert source() == []
        clock.advance(20)
    assert nvml.calls == (1 if function == "nvmlInit" else 2)
    for _ in range(3):
        assert source() == []
        clock.advance(60)
    assert [(record.levelname, record.name) for record in caplog.records] == [("INFO", "modelwatch")]
    nvml.broken = set()
    assert ids(source) == ["0", "1", "2"]


def test_without_the_package(monkeypatch, clock, caplog):
    """Without nvidia-ml-py there is no metric and no error, and the log names the extra, once."""
    caplog.set_level(logging.INFO, logger="modelwatch")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    source = GpuSource(clock=clock)
    assert source() == []
    clock.advance(100)
    assert source() == []
    assert [record.message for record in caplog.records if "modelwatch[gpu]" in record.message] == [
        caplog.records[0].message
    ]


def test_the_real_package(clock, caplog):
    """With the real nvidia-ml-py the readings are those of the devices at hand, or none without a driver."""
    pynvml = pytest.importorskip("pynvml")
    caplog.set_level(logging.INFO, logger="modelwatch")
    found = read(GpuSource(environ={}, clock=clock))
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        assert found == {}
        assert len(caplog.records) == 1
    else:
        assert {key[1] for key in found} == set(map(str, range(pynvml.nvmlDeviceGetCount())))
        assert caplog.records == []


def test_the_real_package_has_what_is_asked_for():
    """Every function that the made-up NVML answers exists in the real one."""
    pynvml = pytest.importorskip("pynvml")
    assert [name for name in vars(FakeNvml) if name.startswith("nvml") and not hasattr(pynvml, name)] == []
    assert pynvml.NVML_TEMPERATURE_GPU == 0
    assert issubclass(pynvml.NVMLError_LibraryNotFound, pynvml.NVMLError)


def test_nothing_is_begun_before_the_first_call(nvml):
    """Making the source starts no driver and imports no package."""
    GpuSource(nvml=nvml)
    assert nvml.calls == 0


def test_visible_leaves_its_arguments_alone():
    """The list of cards that comes back is a new one."""
    cards = [Device("0", "GPU-a", 0)]
    assert visible(None, cards, []) == cards
    assert visible(None, cards, []) is not cards


@pytest.mark.parametrize("chosen", ["", "G", "GPU"])
def test_an_entry_without_its_prefix_names_nothing(chosen):
    """What is neither a number nor begins with GPU- or MIG- names no device, also where there is only one."""
    assert visible(chosen, [Device("0", "GPU-a", 0)], []) == []


def _child(source, pipe):
    pipe.send((ids(source), source._nvml.inits))


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # other tests' threads; the child uses none
def test_a_forked_child_starts_the_driver_anew(nvml, proc):
    """A child asks NVML itself, also if the parent held the lock at the fork."""
    source = GpuSource(nvml=nvml, environ={}, proc=proc)
    source()
    here, there = multiprocessing.Pipe(duplex=False)
    with source._state.lock:
        child = multiprocessing.get_context("fork").Process(target=_child, args=(source, there))
        child.start()
    try:
        assert here.poll(30), "the child hangs"
        assert here.recv() == (["0", "1", "2"], 2)
    finally:
        child.kill()
        child.join()
        child.close()
        here.close()
        there.close()
