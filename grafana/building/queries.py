"""PromQL: whom a panel asks about, and the forms that keep an answer true.

A ratio is guarded on both sides: without a denominator it is absent instead of NaN, without a numerator it is 0 instead
of absent. Counts of bins are added up only within one reference.
"""

from __future__ import annotations

from modelwatch.fleet import promql

SERVICE = 'job=~"$job", instance=~"$instance"'
MODEL = f'{SERVICE}, model_name=~"$model_name"'
VERSION = f'{MODEL}, model_version=~"$model_version"'
RECORDED = 'job=~"$job", model_name=~"$model_name"'
FLEET = f'{RECORDED}, model_version=~"$model_version"'
"""Recorded over all replicas: there is no instance to choose."""

ONE_MODEL = f'{SERVICE}, model_name="$model_name"'
ITS_VERSIONS = f'{ONE_MODEL}, model_version=~"$model_version"'
ONE_VERSION = f'{ONE_MODEL}, model_version="$model_version"'
FLEET_VERSIONS = 'job=~"$job", model_name="$model_name", model_version=~"$model_version"'
FLEET_VERSION = 'job=~"$job", model_name="$model_name", model_version="$model_version"'

FAILED = 'status=~"error|timeout"'
ANSWERABLE = 'status=~"success|error|timeout"'
"""What counts for the error budget: not what the client got wrong or left."""

WINDOW = "$__rate_interval"
RANGE = "$__range"
END = " @ end()"
"""At every point as of the end of the time shown: with RANGE, of all of it."""


def by(labels: str, expression: str, function: str = "sum") -> str:
    """An aggregation.

    >>> by("status", "x"), by("", "x")
    ('sum by (status) (x)', 'sum(x)')
    """
    return f"{function} by ({labels}) ({expression})" if labels else f"{function}({expression})"


def rate(metric: str, chosen: str, labels: str = "", window: str = WINDOW, at: str = "") -> str:
    """Per second, added up by `labels`."""
    return by(labels, f"rate({metric}{{{chosen}}}[{window}]{at})")


def increase(metric: str, chosen: str, labels: str = "", window: str = WINDOW, at: str = "") -> str:
    """How much a counter rose within the window, added up by `labels`."""
    return by(labels, f"increase({metric}{{{chosen}}}[{window}]{at})")


def ratio(part: str, whole: str) -> str:
    """`part` of `whole`, both by the same labels: 0 without a part, absent without a whole."""
    return f"({part} or {whole} * 0) / ({whole} > 0)"


def shares(part: str, whole: str, labels: str = "") -> str:
    """Each series of `part` as a share of the one of `whole` that has the same `labels`."""
    return f"{part} / on ({labels}) group_left () ({whole} > 0)"


def mean(histogram: str, chosen: str, labels: str = "") -> str:
    """Mean of what a histogram observed within the window."""
    return f"{rate(histogram + '_sum', chosen, labels)} / ({rate(histogram + '_count', chosen, labels)} > 0)"


def quantile(share: float, histogram: str, chosen: str, labels: str = "", *, window: str = WINDOW, at: str = "") -> str:
    """Estimated from the buckets, over all that `labels` does not tell apart; absent without observations."""
    both = f"le, {labels}" if labels else "le"
    buckets = rate(f"{histogram}_bucket", chosen, both, window, at)
    some = rate(f"{histogram}_count", chosen, labels, window, at)
    return f"histogram_quantile({share}, {buckets}) and on ({labels}) ({some} > 0)"


def worst(number: int, expression: str, labels: str) -> str:
    """Of the series of `expression` those that were largest at any time shown: the same from edge to edge.

    `topk` alone chooses anew at every point, which draws more lines than it promises, in pieces.
    """
    largest = by(labels, f"max_over_time({expression}[{RANGE}]{END})", "max")
    return f"{by(labels, expression, 'max')} and on ({labels}) topk({number}, {largest})"


def busiest(number: int, metric: str, chosen: str, labels: str) -> str:
    """The rates of those that had most within all the time shown: the same from edge to edge, as in `worst`."""
    most = rate(metric, chosen, labels, RANGE, END)
    return f"{rate(metric, chosen, labels)} and on ({labels}) topk({number}, {most})"


def between(now: str, then: str, keep: str, join: str) -> str:
    """Smoothed PSI of two distributions of live rows, with half a row added to every bin.

    Parameters
    ----------
    now, then
        Rows in each bin, by `keep` and `join`, and by `join`.
    keep, join
        Labels of the result, and those in which both must agree, without `bin`.
    """
    own = f"{keep}, {join}" if keep else join
    first = _smoothed(now, own)
    second = _smoothed(then, join)
    matching = f"on ({join}, bin) group_left ()"
    difference = f"({first} - {matching} {second})"
    return by(own, f"{difference} * ln({first} / {matching} {second})")


def noise_between(now: str, then: str, keep: str, join: str) -> str:
    """The bound that `between` exceeds in one of 1,000 comparisons without a change."""
    own = f"{keep}, {join}" if keep else join
    n = f"({by(own, now)} > 0)"
    m = f"(({n} * 0) + on ({join}) group_left () ({by(join, then)} > 0))"
    return promql.psi_critical(n, m, by(own, now, "count"))


def _smoothed(counts: str, labels: str) -> str:
    rows = f"({by(labels, counts)} > 0)"
    bins = by(labels, counts, "count")
    return f"(({counts} + 0.5) / on ({labels}) group_left () ({rows} + 0.5 * {bins}))"


def rounded(value: str) -> str:
    """Four significant digits, as a label needs them.

    A division by a power of ten, not a product: 3 / 10 is 0.3, and 3 * 0.1 is not.
    """
    power = f"10 ^ (3 - floor(log10(clamp_min(abs({value}), 1e-9))))"
    return f"floor({value} * {power} + 0.5) / {power}"


def labelled(found: str, bounds: str, labels: str = "reference, bin") -> str:
    """`found` with a label `upto` that says what a bin is: its upper bound if it has one, else its name.

    Both by `labels`. A value becomes a label with `count_values`: so an axis shows numbers of the feature's own unit.
    """
    named = f'count_values by ({labels}) ("upto", {rounded(bounds)})'
    return (
        f"{found} * on ({labels}) group_left (upto) {named} "
        f'or on ({labels}) label_replace({found}, "upto", "$1", "bin", "(.*)")'
    )


def watched(expression: str, labels: str = "job") -> str:
    """What Prometheus says of any target, only of the jobs (or, by `job, instance`, targets) with modelwatch in them.

    `All` jobs are else all jobs of Prometheus. A day back, so that a job is known of which no replica answers any more.
    """
    return f"{expression} and on ({labels}) last_over_time(modelwatch_build_info{{{SERVICE}}}[1d])"


def targets(up: int) -> str:
    """How many targets answer (1), or do not (0)."""
    return f"count({watched(f'up{{{SERVICE}}} == {up}')}) or vector(0)"


def sure(expression: str, chosen: str, labels: str = "") -> str:
    """Only where predictions come with a confidence: without one, none is low, and 0 % would be praise."""
    some = rate("model_prediction_confidence_count", chosen, labels)
    return f"{expression} and on ({labels}) ({some} > 0)"


def since(moment: str) -> str:
    """Seconds since a moment that a metric tells, as of the time looked at, not of now."""
    return f"time() - {moment}"


def budget(kind: str) -> str:
    """How large a share may be by the rules; one number, however many clusters record it."""
    return f"on () group_left () max(modelwatch:{kind}:budget)"


def of_fleet(name: str, *, feature: bool = False) -> str:
    """What is recorded over all replicas of the one model and version chosen; with `feature`, of the one chosen."""
    return f"modelwatch:{name}{{{_one(FLEET_VERSION, feature)}}}"


def of_replicas(name: str, *, feature: bool = False) -> str:
    """What each replica says of the one model and version chosen; with `feature`, of the one chosen."""
    return f"{name}{{{_one(ONE_VERSION, feature)}}}"


def _one(chosen: str, feature: bool) -> str:
    return f'{chosen}, feature="$feature"' if feature else chosen
