"""One family in Prometheus' text format 0.0.4 or in OpenMetrics 1.0.0.

The text is byte for byte that of prometheus_client, in half the time and with pauses, and nothing that a user's
collector brings can make the page unreadable: names that are none are written with underscores, as prometheus_client
does since 0.22; control characters, which some readers take for the end of a line, and halves of surrogate pairs, which
are not text, become question marks; a label value of a mebibyte is cut.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

from prometheus_client.samples import Exemplar, Sample, Timestamp

from .pace import Pace

LONGEST = 1024
_UNFIT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_NAME = re.compile("[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL = re.compile("[a-zA-Z_][a-zA-Z0-9_]*")
_NATIVE = "native_histogram" in Sample._fields  # since prometheus_client 0.22
_APART = ("_created", "_gcount", "_gsum")  # the text format knows them only as gauges of their own
_KINDS = {"counter": "counter", "gauge": "gauge", "summary": "summary", "histogram": "histogram", "info": "gauge",
          "stateset": "gauge", "gaugehistogram": "histogram", "unknown": "untyped"}  # fmt: skip


class Family(Protocol):
    """A Metric of prometheus_client, or what has its attributes. The samples may be gone through twice."""

    @property
    def name(self) -> str:
        """Without the suffixes of its samples."""

    @property
    def documentation(self) -> str:
        """Help."""

    @property
    def type(self) -> str:
        """In words of OpenMetrics."""

    @property
    def unit(self) -> str:
        """Base unit, or empty."""

    @property
    def samples(self) -> Iterable[Sample]:
        """All."""


class Form(NamedTuple):
    """What is to be written."""

    openmetrics: bool = False
    names: frozenset[str] = frozenset()
    """Samples and families, as they stand in the text; nothing else is shown then. Empty for all."""


class Text(NamedTuple):
    """A family as it is written."""

    name: str
    text: bytes  # empty if it has no sample that is wanted
    left_out: int  # samples whose labels, made fit, were those of others


class _Unfit(Exception):  # noqa: N818 - not an error: the family is written again, with care
    """A label value must be changed."""


def text_of(family: Family, form: Form, pace: Pace) -> Text:
    """Write one family.

    Raises
    ------
    Exception
        It cannot be written: its attributes, names, numbers or times are of no use. Not a byte of it counts.
    """
    name = underscored(family.name, _NAME)
    names = frozenset() if family.name in form.names else form.names
    write = _openmetrics if form.openmetrics else _text
    lines = _Lines(names, pace)
    try:
        text = "".join(write(name, family, lines))
    except _Unfit:
        lines = _Lines(names, pace, fits=False)
        text = "".join(write(name, family, lines))
    return Text(name, text.encode() if lines.shown or not names else b"", lines.left_out)


def _openmetrics(name: str, family: Family, lines: _Lines) -> Iterator[str]:
    kind = family.type
    if kind not in _KINDS:
        raise ValueError(f"expected the type of a metric, got {kind!r:.100}")
    yield f"# HELP {name} {_escaped(_plain(family.documentation))}\n# TYPE {name} {kind}\n"
    if family.unit:
        yield f"# UNIT {name} {underscored(family.unit, _LABEL)}\n"
    for series, sample in lines.of(family.samples):
        exemplar = _exemplar(family, sample, sample.exemplar) if sample.exemplar else ""
        time = f" {_time(sample.timestamp)}" if sample.timestamp is not None else ""
        yield f"{series} {_number(sample.value)}{time}{exemplar}\n"


def _text(name: str, family: Family, lines: _Lines) -> Iterator[str]:
    kind = _KINDS[family.type]
    suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
    help_text = _plain(family.documentation).replace("\\", r"\\").replace("\n", r"\n")
    yield f"# HELP {name}{suffix} {help_text}\n# TYPE {name}{suffix} {kind}\n"
    apart: dict[str, list[str]] = {}
    gauges = {family.name + end: end for end in _APART}
    for series, sample in lines.of(family.samples):
        time = f" {int(float(_time(sample.timestamp)) * 1000)}" if sample.timestamp is not None else ""
        line = f"{series} {_number(sample.value)}{time}\n"
        if sample.name in gauges:
            apart.setdefault(gauges[sample.name], []).append(line)
        else:
            yield line
    for end in sorted(apart):
        yield f"# HELP {name}{end} {help_text}\n# TYPE {name}{end} gauge\n"
        yield from apart[end]


class _Lines:
    """The samples that are wanted, with the beginnings of their lines: name and labels.

    With `fits` a label value that must be changed raises _Unfit. Without, it is changed, and of several samples that
    are then of one series the first is shown: Prometheus would keep one of them, and strict readers refuse the page.
    """

    def __init__(self, names: frozenset[str], pace: Pace, *, fits: bool = True) -> None:
        self._wanted, self._pace, self._fits = names, pace, fits
        self._orders: dict[tuple[str, ...], list[tuple[str, str]]] = {}
        self.shown = self.left_out = 0

    def of(self, samples: Iterable[Sample]) -> Iterator[tuple[str, Sample]]:
        seen: set[str] = set()
        names: dict[str, str] = {}
        for sample in self._pace.through(samples):
            if self._wanted and sample.name not in self._wanted:
                continue
            if _NATIVE and sample.native_histogram:
                continue  # neither format has them; OpenMetrics from 2.0 on
            name = names.get(sample.name)
            if name is None:
                name = names[sample.name] = underscored(sample.name, _NAME)
            series = f"{name}{{{self._labels(sample.labels)}}}" if sample.labels else name
            if not self._fits:
                if series in seen:
                    self.left_out += 1
                    continue
                seen.add(series)
            self.shown += 1
            yield series, sample

    def _labels(self, labels: dict[str, str]) -> str:
        keys = tuple(labels)
        order = self._orders.get(keys)
        if order is None:
            order = self._orders[keys] = _order(keys)
        pairs = []
        for key, beginning in order:
            value = labels[key]
            if not value.isprintable() or len(value) > LONGEST:
                value = self._made_fit(value)
            pairs.append(f'{beginning}{_escaped(value)}"')
        return ",".join(pairs)

    def _made_fit(self, value: str) -> str:
        fit = fitted(value)
        if fit != value and self._fits:
            raise _Unfit
        return fit


def fitted(value: str) -> str:
    r"""A label value fit for every reader: without control characters except tab and line feed, and not too long.

    >>> fitted("a\x00b\rc"), fitted("two\nlines"), fitted("half" + chr(0xD800)), len(fitted("long" * 1000))
    ('a?b?c', 'two\nlines', 'half?', 1024)
    """
    if len(value) > LONGEST:
        value = value[: LONGEST - 1] + "…"
    return _plain(value)


def _plain(text: str) -> str:
    return text if text.isprintable() else _UNFIT.sub("?", text)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def underscored(name: str, pattern: re.Pattern[str]) -> str:
    """A name with an underscore for each character that it must not have.

    >>> underscored("http.server-2", _LABEL), underscored("2nd", _LABEL)
    ('http_server_2', '_nd')
    """
    if not name:
        raise ValueError("expected a name, got an empty one")
    if pattern.fullmatch(name):
        return name
    return "".join(c if pattern.fullmatch("a" * bool(i) + c) else "_" for i, c in enumerate(name))


def _order(keys: tuple[str, ...]) -> list[tuple[str, str]]:
    """Names of labels in the order in which they are shown, each with the beginning of its pair."""
    order = [(key, f'{underscored(key, _LABEL)}="') for key in sorted(keys)]
    if len({beginning for _, beginning in order}) < len(order) or "__name__" in keys:
        raise ValueError(f"expected names of labels that stay different and are not __name__, got {keys!r:.200}")
    return order


def _number(value: float) -> str:
    """As Go writes it: with an exponent from a million on.

    >>> _number(12), _number(1234567), _number(float("-inf"))
    ('12.0', '1.234567e+06', '-Inf')
    """
    x = float(value)
    if not math.isfinite(x):
        return "NaN" if math.isnan(x) else "+Inf" if x > 0 else "-Inf"
    digits = repr(x)
    point = digits.find(".")
    if x <= 0 or point <= 6:
        return digits
    mantissa = f"{digits[0]}.{digits[1:point]}{digits[point + 1 :]}".rstrip("0.")
    return f"{mantissa}e+{point - 1:02d}"


def _time(timestamp: float | Timestamp) -> float | Timestamp:
    """The time of a sample in seconds, if it is one that every reader can read."""
    seconds = float(timestamp)
    if not math.isfinite(seconds) or abs(seconds) > 1e12:
        raise ValueError(f"expected seconds since 1970, got {seconds}")
    return timestamp


def _exemplar(family: Family, sample: Sample, exemplar: Exemplar) -> str:
    bucket = sample.name.endswith("_bucket") and family.type in {"histogram", "gaugehistogram"}
    if not bucket and not (sample.name.endswith("_total") and family.type == "counter"):
        raise ValueError(f"expected exemplars of buckets and counters only, got one of {sample.name!r:.100}")
    order = _order(tuple(exemplar.labels))
    labels = ",".join(f'{beginning}{_escaped(fitted(exemplar.labels[key]))}"' for key, beginning in order)
    time = f" {_time(exemplar.timestamp)}" if exemplar.timestamp is not None else ""
    return f" # {{{labels}}} {_number(exemplar.value)}{time}"
