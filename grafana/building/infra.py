"""Infrastructure: how much of each resource is used, and where work waits for it."""

from __future__ import annotations

from collections.abc import Callable

from grafana_foundation_sdk.models import units

from . import frame
from .frame import Board, Line, Row
from .panels import GREEN, GREY, RED, YELLOW, Query, graph, stat, unit_of
from .queries import END, RANGE, SERVICE, WINDOW, busiest, by, quantile, rate, targets, watched

EACH = "{{instance}}"
TARGET = "job, instance"
FULL = ((0.8, YELLOW), (0.95, RED))


def _of(metric: str) -> str:
    return f"{metric}{{{SERVICE}}}"


def _each(expression: str) -> str:
    return by("instance", expression)


def _largest(metric: str) -> str:
    """The largest value in the time shown: the same at every point."""
    return f"max_over_time({_of(metric)}[{RANGE}]{END})"


def _top(formula: Callable[[Callable[[str], str]], str], labels: str = "instance") -> str:
    """Of a formula over gauges those ten that were largest in the time shown: the same from edge to edge."""
    return f"{formula(_of)} and on ({labels}) topk(10, {formula(_largest)})"


def _cpu(of: Callable[[str], str], *when: str) -> str:
    used = rate("model_process_cpu_seconds_total", SERVICE, "instance", *when)
    return f"{used} / ({by('instance', of('model_cpu_limit_cores'), 'max')} > 0)"


def _memory(of: Callable[[str], str]) -> str:
    """Of a container what its limit is compared with; else what the processes have, pages that they share twice."""
    used = f"{by('instance', of('model_container_memory_working_set_bytes'), 'max')} or {_resident(of)}"
    return f"({used}) / ({by('instance', of('model_memory_limit_bytes'), 'max')} > 0)"


def _resident(of: Callable[[str], str]) -> str:
    return _each(of("model_process_resident_memory_bytes"))


def _pool(of: Callable[[str], str]) -> str:
    return f"{_each(of('model_threadpool_busy_threads'))} / ({_each(of('model_threadpool_limit_threads'))} > 0)"


def _waiting(of: Callable[[str], str]) -> str:
    return _each(of("model_threadpool_waiting_tasks"))


def _lag(window: str = WINDOW, at: str = "") -> str:
    return quantile(0.99, "model_event_loop_lag_seconds", SERVICE, "instance", window=window, at=at)


def _restarts(window: str) -> str:
    """A counter of a service falls back only where the service began anew."""
    return f"resets({_of('model_process_cpu_seconds_total')}[{window}])"


GPU = "instance, gpu_id"
GPU_EACH = "{{instance}} gpu {{gpu_id}}"
NO_GPU = "no GPU, or without the extra modelwatch[gpu]"

replicas = stat(
    "Replicas",
    "Targets that Prometheus reaches (`up` is 1), and those that it does not, of the jobs in which modelwatch ran "
    "within a day.",
    Query(targets(1), "up", "instant"),
    Query(targets(0), "down", "instant"),
    unit=units.Short,
    colours={"up": ((0, RED), (1, GREEN)), "down": ((1, RED),)},
    names=True,
)
workers = stat(
    "Workers",
    "Processes that serve requests, over all replicas.",
    Query(by("", _of("model_workers"))),
    unit=unit_of("model_workers"),
)
fullest_processor = stat(
    "Fullest processor",
    "Processor time of the busiest replica as a share of what it may use, over the rate interval.",
    Query(f"max({_cpu(_of)})"),
    unit=units.PercentUnit,
    steps=FULL,
)
fullest_memory = stat(
    "Fullest memory",
    "Memory of the replica that is nearest to its limit, as a share of the limit: the working set of its container, or "
    "without one what its processes have resident.",
    Query(f"max({_memory(_of)})"),
    unit=units.PercentUnit,
    steps=FULL,
)
longest_event_loop_lag = stat(
    "Longest event-loop lag",
    "p99 of the event-loop lag of the worst replica, over the rate interval: so much longer do all its requests take.",
    Query(f"max({_lag()})"),
    unit=unit_of("model_event_loop_lag_seconds"),
    steps=((0.05, YELLOW), (0.25, RED)),
)
restarts = stat(
    "Restarts",
    "How often a service began anew in the time shown, over all replicas: its processor time fell back to zero. A "
    "replica that comes back under another name is not among them.",
    Query(f"sum({_restarts(RANGE)})", "", "instant"),
    unit=units.Short,
    steps=((1, YELLOW), (5, RED)),
)
versions = stat(
    "modelwatch",
    "Versions of modelwatch that run, and in how many replicas.",
    Query(by("version, python", _of("modelwatch_build_info"), "count"), "{{version}}, Python {{python}}", "instant"),
    unit=units.Short,
    names=True,
)

HEADLINE = Row(
    "Is there room left?",
    Line(
        4,
        (4, replicas),
        (2, workers),
        (4, fullest_processor),
        (4, fullest_memory),
        (4, longest_event_loop_lag),
        (2, restarts),
        (4, versions),
    ),
)

processor_used = graph(
    "Processor used",
    "Processor time of each replica as a share of what it may use (container limit, affinity or machine), over the "
    "rate interval. The ten busiest.",
    Query(f"{_cpu(_of)} and on (instance) topk(10, {_cpu(_largest, RANGE, END)})", EACH),
    unit=units.PercentUnit,
    steps=FULL,
)
throttled = graph(
    "Throttled",
    "Share of time in which the container was denied the processor by its limit, over the rate interval: latencies "
    "rise although the use looks low. Only in containers with a limit.",
    Query(
        busiest(10, "model_container_cpu_throttled_seconds_total", SERVICE, "instance"),
        EACH,
    ),
    unit=units.PercentUnit,
    steps=((0.05, YELLOW), (0.25, RED)),
    empty="not in a container with a limit",
)
event_loop_lag = graph(
    "Event-loop lag (p99)",
    "How much later than asked for the event loop woke a timer, p99 of each replica over the rate interval. All "
    "requests of a worker wait while its loop is blocked. The ten worst.",
    Query(f"{_lag()} and on (instance) topk(10, {_lag(RANGE, END)})", EACH),
    unit=unit_of("model_event_loop_lag_seconds"),
    steps=((0.05, YELLOW), (0.25, RED)),
)

PROCESSOR = Row(
    "Processor: how much is used, and what waits for it?",
    Line(8, (8, processor_used), (8, throttled), (8, event_loop_lag)),
)

memory_used = graph(
    "Memory used",
    "Memory of each replica as a share of its limit: the working set of its container, which is killed at 100 %, or "
    "without one what its processes have resident. The ten fullest.",
    Query(_top(_memory), EACH),
    unit=units.PercentUnit,
    steps=FULL,
)
memory_in_bytes = graph(
    "Memory in bytes",
    "Resident memory of each replica, all its workers, the ten largest; and the largest working set of a container, "
    "which is what the limit is compared with. A line that only rises is a leak.",
    Query(_top(_resident), EACH),
    Query(by("", _of("model_container_memory_working_set_bytes"), "max"), "largest working set"),
    unit=unit_of("model_process_resident_memory_bytes"),
    colours={"largest working set": GREY},
    dashed=["largest working set"],
)
garbage_collection = graph(
    "Garbage collection",
    "Share of time that garbage collections stopped the interpreter, by generation, over the rate interval and the "
    "workers of all replicas. Generation 2 looks at all objects and takes longest.",
    Query(
        f"{rate('model_gc_pause_seconds_sum', SERVICE, 'generation')} / on () group_left () "
        f"({by('', _of('model_workers'))} > 0)",
        "generation {{generation}}",
    ),
    unit=units.PercentUnit,
    stacked=True,
)

MEMORIES = Row(
    "Memory: how much is used, and what does it cost to clean up?",
    Line(8, (8, memory_used), (8, memory_in_bytes), (8, garbage_collection)),
)

thread_pool_used = graph(
    "Thread pool used",
    "Threads for sync endpoints that are at work, as a share of those that there may be. At 100 % further calls wait. "
    "The ten fullest.",
    Query(_top(_pool), EACH),
    unit=units.PercentUnit,
    steps=FULL,
)
calls_that_wait_for_a_thread = graph(
    "Calls that wait for a thread",
    "Calls of sync endpoints that wait for a thread of the pool. The ten longest queues.",
    Query(_top(_waiting), EACH),
    unit=unit_of("model_threadpool_waiting_tasks"),
    steps=((1, YELLOW),),
)
workers_threads_open_files = graph(
    "Workers, threads, open files",
    "Processes, threads and open file descriptors, over all replicas chosen. Lines that only rise are leaks.",
    Query(by("", _of("model_workers")), "workers"),
    Query(by("", _of("model_process_threads")), "threads"),
    Query(by("", _of("model_process_open_fds")), "open files"),
    unit=unit_of("model_process_threads"),
)
restarts_over_time = graph(
    "Restarts",
    "When a service began anew: its processor time fell back to zero. It stands at every point of a rate interval: "
    "bars side by side are one.",
    Query(_each(_restarts(WINDOW)), EACH),
    unit=units.Short,
    bars=True,
    decimals=0,
    empty="no restarts",
)

THREADS = Row(
    "Threads and processes: are there enough, and do they live?",
    Line(
        8,
        (6, thread_pool_used),
        (6, calls_that_wait_for_a_thread),
        (6, workers_threads_open_files),
        (6, restarts_over_time),
    ),
)

storage = graph(
    "Storage",
    "Bytes per second that the services read from storage and wrote to it, over all replicas chosen. What the page "
    "cache answers is not among them.",
    Query(rate("model_disk_read_bytes_total", SERVICE), "read"),
    Query(rate("model_disk_written_bytes_total", SERVICE), "written"),
    unit=units.BytesPerSecondIEC,
)
network = graph(
    "Network",
    "Bytes per second through the network interfaces of the containers, or of the whole machine where there is none, "
    "over all replicas chosen.",
    Query(rate("model_network_receive_bytes_total", SERVICE), "received"),
    Query(rate("model_network_transmit_bytes_total", SERVICE), "sent"),
    unit=units.BytesPerSecondIEC,
)

TRANSFER = Row(
    "Disk and network: how much flows?",
    Line(7, (12, storage), (12, network)),
)


def _gauge(metric: str) -> Callable[[Callable[[str], str]], str]:
    return lambda of: by(GPU, of(metric), "max")


def _memory_of_gpu(metric: str) -> Callable[[Callable[[str], str]], str]:
    """A share of the memory of each device."""
    return lambda of: f"{by(GPU, of(metric), 'max')} / ({by(GPU, of('model_gpu_memory_limit_bytes'), 'max')} > 0)"


gpu_used = graph(
    "GPU used",
    "Share of time in which each device was computing; of the whole device, whoever used it. The ten busiest.",
    Query(_top(_gauge("model_gpu_utilization_ratio"), GPU), GPU_EACH),
    unit=unit_of("model_gpu_utilization_ratio"),
    high=1,
    empty=NO_GPU,
)
gpu_memory_used = graph(
    "GPU memory used",
    "Memory of each device that is in use, and the part of it that the service uses, as a share of what the device "
    "has. The ten fullest of each.",
    Query(_top(_memory_of_gpu("model_gpu_memory_bytes"), GPU), GPU_EACH),
    Query(_top(_memory_of_gpu("model_gpu_process_memory_bytes"), GPU), f"{GPU_EACH}: service"),
    unit=units.PercentUnit,
    steps=((0.9, YELLOW), (0.98, RED)),
    empty=NO_GPU,
)
gpu_temperature = graph(
    "GPU temperature",
    "Temperature of each device. The ten hottest. From about 85 °C most devices slow down.",
    Query(_top(_gauge("model_gpu_temperature_celsius"), GPU), GPU_EACH),
    unit=unit_of("model_gpu_temperature_celsius"),
    steps=((80, YELLOW), (90, RED)),
    low=None,
    empty=NO_GPU,
)
gpu_power = graph(
    "GPU power",
    "Power that each device draws: its energy per second over the rate interval. The ten highest.",
    Query(busiest(10, "model_gpu_energy_joules_total", SERVICE, GPU), GPU_EACH),
    unit=units.Watt,
    empty=NO_GPU,
)

GRAPHICS = Row(
    "GPU: how busy, how full, how hot?",
    Line(7, (6, gpu_used), (6, gpu_memory_used), (6, gpu_temperature), (6, gpu_power)),
    closed=True,
)

_LOST = 'outcome=~"dropped|late|sampled_out"'

scrape = graph(
    "Scrape",
    "How long Prometheus waits for a scrape, the slowest replica, and how long modelwatch takes to render one (p99). "
    "Near the scrape timeout scrapes begin to fail.",
    Query(f"max({watched(f'scrape_duration_seconds{{{SERVICE}}}', TARGET)})", "scrape, slowest"),
    Query(quantile(0.99, "modelwatch_scrape_duration_seconds", SERVICE), "rendering, p99"),
    unit=unit_of("modelwatch_scrape_duration_seconds"),
)
series = graph(
    "Series",
    "Samples in one scrape of the largest replica, and series that were new. New ones all the time mean a label "
    "without bounds.",
    Query(f"max({watched(f'scrape_samples_scraped{{{SERVICE}}}', TARGET)})", "samples"),
    Query(f"max({watched(f'scrape_series_added{{{SERVICE}}}', TARGET)})", "new series"),
    unit=units.Short,
)
added_to_a_request = graph(
    "Added to a request",
    "Time that modelwatch adds to a request, half and 99 % of the requests less; one in 128 is timed.",
    *(
        Query(quantile(share, "modelwatch_request_overhead_seconds", SERVICE), f"p{share * 100:g}")
        for share in (0.5, 0.99)
    ),
    unit=unit_of("modelwatch_request_overhead_seconds"),
)
not_counted_and_why = graph(
    "Not counted, and why",
    "Rows per second that did not enter the window, by what became of them, and errors of modelwatch itself and files "
    "of other workers that it could not read. Zero, but for sampled rows, is well. Degraded is 1 where something of "
    "modelwatch does not work although the service does.",
    Query(rate("modelwatch_rows_total", f"{SERVICE}, {_LOST}", "outcome"), "rows {{outcome}}"),
    Query(rate("modelwatch_internal_errors_total", SERVICE), "internal errors"),
    Query(rate("modelwatch_segments_skipped_total", SERVICE), "skipped files"),
    Query(rate("modelwatch_label_overflow_total", SERVICE), "folded labels"),
    Query(by("", f"modelwatch_degraded{{{SERVICE}}}", "max"), "degraded"),
    unit=units.CountsPerSecond,
)

WATCHING = Row(
    "What does watching cost, and is it complete?",
    Line(7, (6, scrape), (6, series), (6, added_to_a_request), (6, not_counted_and_why)),
)

BOARD = Board(
    uid="modelwatch-infra",
    title="modelwatch / Infrastructure",
    about="Processor, memory, threads, disk, network and GPU of the services, and what watching costs.",
    variables=frame.variables(hidden=True),
    rows=[HEADLINE, PROCESSOR, MEMORIES, THREADS, TRANSFER, WATCHING, GRAPHICS],
)
