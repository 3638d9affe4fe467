"""The one table of all metrics: name, type, labels, help, unit, layer, how workers are added up, and buckets.

What `/metrics` shows is built from it, and the documentation, dashboards and rules are checked against it. A name that
is not here does not exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["counter", "gauge", "histogram"]
Layer = Literal["service", "http", "model", "quality", "drift", "infra", "gpu", "library"]
Merge = Literal["sum", "live", "max", "min", "merged", "elected", "one"]

LAYERS: tuple[Layer, ...] = ("service", "http", "model", "quality", "drift", "infra", "gpu", "library")
"""The layers, in the order in which they are shown; each is also a switch of `Settings(metrics=…)`."""

UNITS = ("seconds", "bytes", "celsius", "joules", "cores", "rows", "ratio")
"""What may follow the last underscore of a name (before `_total`) as its unit; all base units."""


@dataclass(frozen=True)
class Entry:
    """One metric.

    Attributes
    ----------
    name
        As it is shown: that of a counter ends with `_total`.
    labels
        Names, in the order in which values are given to `Series` and `Sample`.
    unit
        One of UNITS, or empty for a bare number or one in the unit of a feature.
    merge
        How the values of several workers become one: their sum; "live", the sum over the workers that are alive;
        their largest or smallest; "merged", computed from the merged windows; "elected", that of the elected worker;
        "one", that of any worker, as all read the same source.
    buckets
        Upper bounds of a histogram, rising, without the open last one. Empty if only the reference can tell.
    on
        Whether it is shown unless the settings say otherwise.
    most
        Values that its last label may take before further ones fold into `_other`. None: configuration, the
        reference or a closed set bounds them.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    unit: str
    layer: Layer
    merge: Merge
    buckets: tuple[float, ...] = ()
    on: bool = True
    most: int | None = None


def _unit(name: str) -> str:
    last = name.removesuffix("_total").rpartition("_")[2]
    return last if last in UNITS else ""


def _counter(
    layer: Layer, name: str, labels: tuple[str, ...], text: str, merge: Merge = "sum", *, most: int | None = None
) -> Entry:
    return Entry(name, "counter", labels, text, _unit(name), layer, merge, most=most)


def _gauge(layer: Layer, name: str, labels: tuple[str, ...], text: str, merge: Merge, *, on: bool = True) -> Entry:
    return Entry(name, "gauge", labels, text, _unit(name), layer, merge, on=on)


def _histogram(
    layer: Layer,
    name: str,
    labels: tuple[str, ...],
    text: str,
    buckets: tuple[float, ...],
    *,
    most: int | None = None,
) -> Entry:
    return Entry(name, "histogram", labels, text, _unit(name), layer, "sum", buckets, most=most)


_M = ("model_name", "model_version")
_MODEL = ("model_name",)
_FEATURE = (*_M, "feature")
_REFERENCE = (*_M, "reference", "source")
_BIN = (*_M, "reference", "feature", "bin")
_DETECTOR = (*_M, "detector", "signal")
_ROUTE = ("http_request_method", "http_route")
_GPU = ("gpu_id",)

_LATENCY = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
# Those that OpenTelemetry's semantic conventions advise for HTTP durations: dashboards of either kind fit.
_HTTP = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_INFERENCE = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_QUEUE = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LAG = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_PAUSE = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_EVALUATION = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)
_OVERHEAD = (1e-06, 2.5e-06, 5e-06, 1e-05, 1.5e-05, 2.5e-05, 5e-05, 0.0001, 0.00025, 0.0005, 0.001)
_SCRAPE = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SIZE = (100.0, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8)
_BATCH = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
_CONFIDENCE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
_CLASSES = 50
_EXCEPTIONS = 20

# A table: one metric a paragraph reads better here than one argument a line.
# fmt: off
_ENTRIES = (
    _counter("service", "model_request_total", (*_M, "status"),
             "Requests to the model's endpoints, by how they ended."),
    _histogram("service", "model_request_latency_seconds", _M,
               "Time from a request's arrival to the last byte of its response, in seconds.", _LATENCY),
    _histogram("service", "model_batch_size", _MODEL, "Rows in one request.", _BATCH),
    _histogram("service", "model_inference_duration_seconds", _M,
               "Time inside the endpoint function, in seconds.", _INFERENCE),
    _histogram("service", "model_queue_duration_seconds", _M,
               "Time from a request's arrival to the start of its endpoint function, in seconds.", _QUEUE),
    _gauge("service", "model_requests_in_progress", _MODEL, "Requests that are being answered now.", "live"),
    _gauge("service", "model_queue_depth", _MODEL,
           "Requests that have arrived and whose endpoint function has not started.", "live"),
    _counter("service", "model_exceptions_total", (*_MODEL, "exception_type"),
             "Exceptions that came out of the endpoints, by class.", most=_EXCEPTIONS),
    _gauge("service", "model_last_request_timestamp_seconds", _MODEL,
           "When the last request arrived, in seconds since 1970.", "max"),
    _gauge("service", "model_loaded_info", _M, "1 while this version of the model is loaded, 0 after.", "max"),
    _gauge("service", "model_load_timestamp_seconds", _M,
           "When this version of the model was loaded, in seconds since 1970.", "max"),

    _histogram("http", "http_server_request_duration_seconds",
               (*_ROUTE, "http_response_status_code", "error_type"),
               "Time from a request's arrival to the last byte of its response, all routes, in seconds.",
               _HTTP, most=_EXCEPTIONS),
    _histogram("http", "http_server_first_byte_seconds", _ROUTE,
               "Time to the first byte of the body of streamed responses, in seconds.", _HTTP),
    _gauge("http", "http_server_active_requests", ("http_request_method",),
           "Requests to any route that are being answered now.", "live"),
    _histogram("http", "http_server_request_body_size_bytes", _ROUTE,
               "Size of the request bodies that were read, in bytes.", _SIZE),
    _histogram("http", "http_server_response_body_size_bytes", _ROUTE,
               "Size of the response bodies that were sent, in bytes.", _SIZE),
    _histogram("http", "http_server_background_seconds", ("http_route",),
               "Time that the service went on working for a request after the last byte, in seconds.", _HTTP),
    _gauge("http", "http_server_active_websockets", ("http_route",), "Websockets that are open now.", "live"),

    _histogram("model", "model_prediction_confidence", (*_MODEL, "predicted_class"),
               "Confidence of the predictions, between 0 and 1.", _CONFIDENCE, most=_CLASSES),
    _counter("model", "model_predictions_total", (*_M, "predicted_class"),
             "Rows by predicted class.", most=_CLASSES),
    _histogram("model", "model_prediction_value", _M,
               "Predicted values; the buckets are quantiles of the reference's predictions.", ()),
    _counter("model", "model_low_confidence_total", _M,
             "Rows whose confidence is below the threshold of the settings."),
    _counter("model", "model_rows_total", _M, "Rows that were predicted; a batch of n counts n."),

    _counter("quality", "model_feature_violations_total", (*_FEATURE, "reason"),
             "Feature values that do not fit the reference, by reason."),
    _counter("quality", "model_input_validation_errors_total", (*_MODEL, "field", "error_type"),
             "Validation errors of refused requests, by field of the schema.", most=_EXCEPTIONS),
    _gauge("quality", "model_feature_window_mean", _FEATURE,
           "Mean of a numeric feature in the window, in its own unit.", "merged"),
    _gauge("quality", "model_feature_window_missing_ratio", _FEATURE,
           "Share of a feature's rows in the window without a value, between 0 and 1.", "merged"),
    _gauge("quality", "model_feature_captured", _FEATURE,
           "1 if a feature of the reference has arrived, 0 if it did not in the first rows.", "max"),
    _gauge("quality", "model_data_quality_score_ratio", _M,
           "1 minus the share of the window's values that do not fit the reference.", "merged"),

    _gauge("drift", "model_feature_drift_psi", _FEATURE,
           "Population stability index of window and reference, in nats.", "merged"),
    _gauge("drift", "model_feature_drift_psi_smoothed", _FEATURE,
           "Population stability index with half a row added to every bin, in nats.", "merged"),
    _gauge("drift", "model_feature_drift_psi_debiased", _FEATURE,
           "Smoothed population stability index less what noise alone gives on average, in nats.", "merged"),
    _gauge("drift", "model_feature_drift_psi_critical", _FEATURE,
           "Smoothed population stability index that noise alone rarely exceeds, in nats.", "merged"),
    _gauge("drift", "model_feature_drift_ks_statistic", _FEATURE,
           "Kolmogorov-Smirnov distance of a numeric feature, between 0 and 1.", "merged"),
    _gauge("drift", "model_feature_drift_ks_pvalue", _FEATURE,
           "Probability of a Kolmogorov-Smirnov distance at least as large without drift.", "merged"),
    _gauge("drift", "model_feature_drift_chi_square_pvalue", _FEATURE,
           "Probability of a chi-square statistic at least as large without drift, for a categorical feature.",
           "merged"),
    _gauge("drift", "model_feature_drift_js_divergence", _FEATURE,
           "Jensen-Shannon divergence of window and reference, base 2, between 0 and 1.", "merged"),
    _gauge("drift", "model_feature_drift_total_variation", _FEATURE,
           "Total variation distance of window and reference, between 0 and 1.", "merged"),
    _gauge("drift", "model_feature_drift_kl_divergence", _FEATURE,
           "Kullback-Leibler divergence of the window from the reference, in nats.", "merged", on=False),
    _gauge("drift", "model_feature_drift_hellinger", _FEATURE,
           "Hellinger distance of window and reference, between 0 and 1.", "merged", on=False),
    _gauge("drift", "model_feature_drift_wasserstein", _FEATURE,
           "Wasserstein distance of a numeric feature, in standard deviations of the reference.", "merged",
           on=False),
    _gauge("drift", "model_feature_drift_floor", _FEATURE,
           "Least Kolmogorov-Smirnov or total variation distance that counts as large, between 0 and 1.",
           "merged"),
    _gauge("drift", "model_feature_drift_detected", _FEATURE,
           "1 if the feature has drifted, which is a significant and large difference, else 0.", "merged"),
    _gauge("drift", "model_feature_drift_severity", _FEATURE,
           "How far the feature has drifted: 0 not, 1 minor, 2 moderate, 3 major.", "merged"),
    _gauge("drift", "model_feature_alerting", _FEATURE,
           "0 if a rule of the settings mutes the feature, else 1.", "max"),
    _gauge("drift", "model_drifted_features", _M, "Features that have drifted.", "merged"),
    _gauge("drift", "model_drifted_features_ratio", _M,
           "Share of the features with a verdict that have drifted, between 0 and 1.", "merged"),
    _gauge("drift", "model_monitored_features", _M,
           "Features that are compared with the reference, prediction and confidence included.", "merged"),
    _gauge("drift", "model_drift_window_rows", _M, "Rows in the window.", "merged"),
    _gauge("drift", "model_drift_window_seconds", _M, "Age of the oldest row in the window, in seconds.", "merged"),
    _gauge("drift", "model_drift_min_rows", _M, "Rows of a feature below which nothing is said about it.", "merged"),
    _gauge("drift", "model_drift_reference_rows", _M, "Rows of the training data behind the reference.", "merged"),
    _gauge("drift", "model_feature_window_rows", _FEATURE,
           "Rows in the window that have a value of the feature.", "merged"),
    _gauge("drift", "model_feature_reference_rows", _FEATURE,
           "Rows of the reference that have a value of the feature.", "merged"),
    _histogram("drift", "model_drift_evaluation_duration_seconds", _M,
               "Time to compare a window with the reference, in seconds.", _EVALUATION),
    _gauge("drift", "model_drift_last_evaluation_timestamp_seconds", _M,
           "When window and reference were last compared, in seconds since 1970.", "max"),
    _gauge("drift", "model_reference_info", _REFERENCE,
           "1 for the reference in use, by the hash of its cells and where it comes from.", "max"),
    _gauge("drift", "model_reference_loaded_timestamp_seconds", _REFERENCE,
           "When the reference was loaded, in seconds since 1970.", "max"),
    _gauge("drift", "model_reference_reload_failed", _REFERENCE,
           "1 if the last attempt to replace the reference failed, else 0.", "max"),
    _counter("drift", "model_feature_bin_total", _BIN, "Rows by bin of the reference."),
    _gauge("drift", "model_reference_bin_share", _BIN,
           "Share of a bin among the reference's rows that have a value, between 0 and 1.", "max"),
    _gauge("drift", "model_reference_missing_share", _BIN,
           "Share of the reference's rows without a value, between 0 and 1; the bin is _missing.", "max"),
    _gauge("drift", "model_reference_bin_upper_bound", _BIN,
           "Upper bound of a bin of a numeric feature, in its own unit.", "max"),
    _gauge("drift", "model_detector_statistic", _DETECTOR, "Test statistic of a change detector.", "elected"),
    _gauge("drift", "model_detector_threshold", _DETECTOR,
           "Test statistic above which a change detector alarms.", "elected"),
    _gauge("drift", "model_detector_state", _DETECTOR,
           "State of a change detector: 0 ok, 1 warning, 2 drift.", "elected"),
    _counter("drift", "model_detector_alarms_total", _DETECTOR, "Alarms of a change detector.", "elected"),
    _gauge("drift", "model_detector_last_alarm_timestamp_seconds", _DETECTOR,
           "When a change detector last alarmed, in seconds since 1970.", "elected"),

    _counter("infra", "model_process_cpu_seconds_total", (), "Processor time of the service, in seconds."),
    _gauge("infra", "model_process_resident_memory_bytes", (), "Resident memory of the service, in bytes.", "live"),
    _gauge("infra", "model_process_open_fds", (), "Open file descriptors of the service.", "live"),
    _gauge("infra", "model_process_threads", (), "Threads of the service.", "live"),
    _gauge("infra", "model_workers", (), "Processes that serve requests and share what they count.", "live"),
    _gauge("infra", "model_cpu_limit_cores", (),
           "Processor cores that the service may use, by container limit, affinity or machine.", "max"),
    _gauge("infra", "model_memory_limit_bytes", (),
           "Memory that the service may use, by container limit or machine, in bytes.", "max"),
    _gauge("infra", "model_container_memory_working_set_bytes", (),
           "Memory of the container that cannot be reclaimed at once, in bytes.", "one"),
    _counter("infra", "model_container_cpu_throttled_seconds_total", (),
             "Time in which the container was denied the processor by its limit, in seconds.", "one"),
    _counter("infra", "model_disk_read_bytes_total", (), "Bytes that the service read from storage."),
    _counter("infra", "model_disk_written_bytes_total", (), "Bytes that the service wrote to storage."),
    _counter("infra", "model_network_receive_bytes_total", (),
             "Bytes that the network interfaces of the container or machine received.", "one"),
    _counter("infra", "model_network_transmit_bytes_total", (),
             "Bytes that the network interfaces of the container or machine sent.", "one"),
    _histogram("infra", "model_event_loop_lag_seconds", (),
               "How much later than asked for the event loop woke a timer, in seconds.", _LAG),
    _histogram("infra", "model_gc_pause_seconds", ("generation",),
               "Time that a garbage collection stopped the interpreter, in seconds.", _PAUSE),
    _gauge("infra", "model_threadpool_busy_threads", (),
           "Threads of the pool for sync endpoints that are at work.", "live"),
    _gauge("infra", "model_threadpool_limit_threads", (),
           "Threads that the pool for sync endpoints may have.", "live"),
    _gauge("infra", "model_threadpool_waiting_tasks", (),
           "Calls of sync endpoints that wait for a thread.", "live"),

    _gauge("gpu", "model_gpu_memory_bytes", _GPU, "Memory of the device that is in use, in bytes.", "one"),
    _gauge("gpu", "model_gpu_process_memory_bytes", _GPU,
           "Memory of the device that the service uses, in bytes.", "one"),
    _gauge("gpu", "model_gpu_memory_limit_bytes", _GPU, "Memory of the device in all, in bytes.", "one"),
    _gauge("gpu", "model_gpu_utilization_ratio", _GPU,
           "Share of time in which the device was computing, between 0 and 1.", "one"),
    _gauge("gpu", "model_gpu_temperature_celsius", _GPU, "Temperature of the device, in degrees Celsius.", "one"),
    _counter("gpu", "model_gpu_energy_joules_total", _GPU, "Energy that the device has used, in joules.", "one"),

    _gauge("library", "modelwatch_build_info", ("version", "python"),
           "1, by the versions of modelwatch and Python.", "max"),
    _counter("library", "modelwatch_rows_total", ("outcome",), "Rows that were handed in, by what became of them."),
    _counter("library", "modelwatch_internal_errors_total", ("stage",),
             "Errors of modelwatch itself, kept from the service, by stage."),
    _counter("library", "modelwatch_label_overflow_total", ("metric",),
             "Values of labels that were folded into _other because there were too many, by metric."),
    _counter("library", "modelwatch_segments_skipped_total", ("reason",),
             "Files of other workers that could not be used, by reason."),
    _gauge("library", "modelwatch_degraded", ("reason",),
           "1 if something of modelwatch does not work although the service does, by reason, else 0.", "max"),
    _gauge("library", "modelwatch_buffer_rows", (), "Rows that wait to be counted in the window.", "live"),
    _histogram("library", "modelwatch_request_overhead_seconds", (),
               "Time that modelwatch adds to a request, measured on one in 128, in seconds.", _OVERHEAD),
    _histogram("library", "modelwatch_scrape_duration_seconds", (),
               "Time to render the metrics, in seconds.", _SCRAPE),
    _gauge("library", "modelwatch_capture_available", (),
           "1 if rows can be found in requests by themselves, 0 if only record() brings them.", "min"),
)
# fmt: on

CATALOGUE: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}
"""Every metric by its name, layer by layer."""
