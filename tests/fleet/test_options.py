"""What can be chosen for rules: what could never work is refused, in a sentence."""

from __future__ import annotations

import pytest

from modelwatch.exceptions import ConfigurationError
from modelwatch.fleet.options import RuleOptions, is_long, seconds


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"latency": 0.3}, "bucket bound"),
        ({"slo": 1.0}, "below 1"),
        ({"slo": 0.9}, "above 0.931"),
        ({"latency_slo": 0.5}, "above 0.931"),
        ({"psi": 0.0}, "PSI above 0"),
        ({"psi": float("nan")}, "PSI above 0"),
        ({"statistics": "most"}, "statistics"),
        ({"min_rows": 0}, "min_rows"),
        ({"alert_rows": 0}, "alert_rows"),
        ({"windows": ()}, "one window"),
        ({"windows": ("1h", "1h")}, "Name each once"),
        ({"windows": ("1h30m",)}, "one unit"),
        ({"pending": "soon"}, "one unit"),
        ({"interval": "0s"}, "one unit"),
        ({"interval": "10m"}, "at most 2m"),
        ({"by": ("feature",)}, "'feature'"),
        ({"by": ("a-b",)}, "'a-b'"),
        ({"labels": {"severity": "loud"}}, "'severity'"),
        ({"labels": {"reason": "x"}}, "'reason'"),
        ({"labels": {"gpu_id": "x"}}, "'gpu_id'"),
        ({"labels": {"alertstate": "firing"}}, "'alertstate'"),
        ({"by": ("edge",)}, "'edge'"),
        ({"labels": {"job": "x"}}, "in both"),
    ],
)
def test_what_cannot_work_is_refused(given, said):
    """Options that no rule could keep are refused with what was expected."""
    with pytest.raises(ConfigurationError, match="Expected") as caught:
        RuleOptions(**given)
    assert said in str(caught.value)


def test_other_buckets_allow_other_latencies():
    """A latency is allowed as soon as the services have a bucket that ends there."""
    assert RuleOptions(latency=0.3, latency_bounds=(0.1, 0.3)).latency == 0.3


@pytest.mark.parametrize(("length", "expected"), [("90s", 90), ("30m", 1800), ("24h", 86_400), ("2w", 1_209_600)])
def test_lengths_of_time(length, expected):
    """A length of time is read as Prometheus reads it."""
    assert seconds(length) == expected


def test_windows_of_a_day_are_long():
    """A window from a day on is made of smaller increases."""
    assert [is_long(window) for window in ("1h", "23h", "24h", "1d", "1w")] == [False, False, True, True, True]
