"""One contract for all detectors."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from modelwatch.detectors import ADWIN, PageHinkley, SlidingWindowDetector
from modelwatch.exceptions import ConfigurationError, ModelWatchError

FACTORIES: dict[str, Callable[[], Any]] = {
    "page_hinkley": PageHinkley,
    "page_hinkley_standardised": PageHinkley.standardised,
    "adwin": ADWIN,
    "adwin_keep_newer": lambda: ADWIN(keep_newer=True),
    "sliding": lambda: SlidingWindowDetector(window_size=100, reference_size=300, threshold=0.5),
    "sliding_reference": lambda: SlidingWindowDetector(window_size=100, reference=[0.5, 1.5] * 200, threshold=0.5),
}
UNUSABLE = [math.nan, math.inf, -math.inf, 1e300, -1e101]


@pytest.fixture(params=FACTORIES.values(), ids=FACTORIES.keys())
def new(request: pytest.FixtureRequest) -> Callable[[], Any]:
    """Makes detectors of one kind; a new sibling gets the contract by being listed above."""
    return request.param


def leaves(value: object) -> int:
    if isinstance(value, dict):
        return sum(map(leaves, value.values()))
    return sum(map(leaves, value)) if isinstance(value, list) else 1


class TestContract:
    def test_finds_steps(self, new: Callable[[], Any], alarm_rows, steps) -> None:
        """A step of three standard deviations is found within 200 rows, and every alarm is counted."""
        detector = new()
        rows = alarm_rows(detector, steps())
        assert 600 <= rows[0] < 800
        assert detector.alarms == len(rows) < 100

    @pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e6])
    def test_constant(self, new: Callable[[], Any], value: float, alarm_rows) -> None:
        """A stream that never changes never alarms, whatever its level."""
        detector = new()
        if new is FACTORIES["sliding_reference"]:  # its own reference is at another level
            detector = SlidingWindowDetector(window_size=100, reference=[value] * 10)
        assert alarm_rows(detector, [value] * 3000) == []

    def test_unusable_values(self, new: Callable[[], Any], alarm_rows, steps) -> None:
        """NaN, infinities and values whose squares overflow are counted, and the other rows alarm as without them."""
        detector, stream = new(), steps()
        noisy = [x for row, value in enumerate(stream) for x in (UNUSABLE[row % 5], value)]
        expected = alarm_rows(new(), stream)
        assert [row // 2 for row in alarm_rows(detector, noisy)] == expected
        assert detector.skipped == len(stream)

    def test_flag_lasts_one_update(self, new: Callable[[], Any], alarm_rows, steps) -> None:
        """An alarm is over with the next value, even with one that is skipped."""
        detector, stream = new(), steps()
        for x in stream[: alarm_rows(new(), stream)[0] + 1]:
            detector.update(x)
        assert detector.drift_detected
        detector.update(math.nan)
        assert not detector.drift_detected

    def test_largest_values(self, new: Callable[[], Any]) -> None:
        """The largest values taken leave no NaN or infinity behind."""
        detector = new()
        for x in [1e100 * (1 - 1e-9), -9e99] * 500:
            detector.update(x)
        assert detector.skipped == 0
        json.dumps(detector.to_state(), allow_nan=False)

    def test_reset(self, new: Callable[[], Any], alarm_rows, steps) -> None:
        """After reset a detector alarms where a new one does; only its counts go on."""
        detector, stream = new(), steps()
        alarm_rows(detector, [math.nan, *stream[: alarm_rows(new(), stream)[0] + 1]])
        assert detector.drift_detected
        detector.reset()
        assert not detector.drift_detected
        assert (detector.alarms, detector.skipped) == (1, 1)
        assert alarm_rows(detector, stream) == alarm_rows(new(), stream)

    @pytest.mark.parametrize("cut", [0, 1, 50, 299, 400, 655, 1000])
    def test_state_round_trip(self, new: Callable[[], Any], cut: int, alarm_rows, steps) -> None:
        """A detector from JSON goes on to the last digit as the one that was written, which stays as it was."""
        detector, stream = new(), steps()
        alarm_rows(detector, [math.nan, *stream[:cut]])
        text = json.dumps(detector.to_state(), allow_nan=False)
        twin = type(detector).from_state(json.loads(text))
        assert twin.drift_detected == detector.drift_detected
        assert alarm_rows(twin, stream[cut:]) == alarm_rows(detector, stream[cut:])
        assert twin.to_state() == detector.to_state()
        assert json.dumps(twin.to_state()) != text

    def test_state_at_an_alarm(self, new: Callable[[], Any], alarm_rows, steps) -> None:
        """A detector written at the very update that alarmed still says so when read, and then goes on equally."""
        detector, stream = new(), steps()
        cut = alarm_rows(new(), stream)[0] + 1
        alarm_rows(detector, stream[:cut])
        twin = type(detector).from_state(detector.to_state())
        assert twin.drift_detected
        assert alarm_rows(twin, stream[cut:]) == alarm_rows(detector, stream[cut:])

    def test_state_is_a_copy(self, new: Callable[[], Any], alarm_rows, steps) -> None:
        """Neither the writer nor the reader of a state shares memory with it."""
        detector = new()
        alarm_rows(detector, steps()[:500])
        state = detector.to_state()
        frozen = copy.deepcopy(state)
        twin = type(detector).from_state(state)
        alarm_rows(detector, steps(1))
        alarm_rows(twin, steps(2))
        assert state == frozen

    @pytest.mark.parametrize(
        "damage",
        [
            lambda state: {**state, "detector": "Other"},
            lambda state: {**state, "alarms": "1"},
            lambda state: {**state, "extra": 1},
            lambda state: {name: value for name, value in state.items() if name != "skipped"},
            lambda state: {name: value for name, value in state.items() if name != "detector"},
            lambda state: {**state, **{name: math.nan for name in ("_mean", "_total") if name in state}},
            lambda state: {**state, **{name: [1.0, None] for name in ("_up", "_rows", "_round") if name in state}},
            lambda state: {**state, **{name: 0 for name in ("clock", "threshold") if name in state}},
            lambda state: None,
            lambda state: [],
        ],
    )
    def test_damaged_state(self, new: Callable[[], Any], damage: Callable[[dict[str, Any]], Any]) -> None:
        """A state that is another detector's, or damaged, is refused by name and with the remedy."""
        detector = new()
        with pytest.raises(ConfigurationError, match=rf"Begin with a new {type(detector).__name__}"):
            type(detector).from_state(damage(detector.to_state()))

    def test_memory(self, new: Callable[[], Any], alarm_rows) -> None:
        """After 40,000 rows a detector holds some hundred numbers, and hardly more than after 20,000."""
        detector = new()
        stream = np.random.default_rng(3).normal(1, 0.1, 40_000).tolist()
        alarm_rows(detector, stream[:20_000])
        half = leaves(detector.to_state())
        alarm_rows(detector, stream[20_000:])
        assert leaves(detector.to_state()) <= min(500, half + 20)

    def test_numpy_scalars(self, new: Callable[[], Any], alarm_rows, steps) -> None:
        """A numpy float32 counts as the same number in double precision."""
        detector, twin = new(), new()
        stream = np.array(steps(), dtype=np.float32)
        assert alarm_rows(detector, stream) == alarm_rows(twin, stream.tolist())
        assert detector.to_state() == twin.to_state()

    @pytest.mark.parametrize("value", ["high", None, [1.0]])
    def test_no_number(self, new: Callable[[], Any], value: Any, alarm_rows, steps) -> None:
        """What is no number at all is an error of the caller's, and leaves the detector as it was."""
        detector = new()
        alarm_rows(detector, steps()[:450])
        before = detector.to_state()
        with pytest.raises((TypeError, ValueError)):
            detector.update(value)
        assert detector.to_state() == before


@pytest.mark.parametrize(
    ("detector", "arguments"),
    [
        (detector, {name: value})
        for detector, bad in (
            (
                PageHinkley,
                {
                    "delta": [-0.1, math.nan, "1", True, None],
                    "threshold": [0, -1, math.inf, None],
                    "alpha": [0, 1.01, math.nan],
                    "min_instances": [0, 1.5, "30", True],
                    "direction": ["sideways", None, 1, ["up"]],
                },
            ),
            (
                ADWIN,
                {
                    "delta": [0, 1, math.nan, "x"],
                    "clock": [0, 2.0],
                    "grace_period": [-1, None],
                    "min_window_length": [0, False],
                    "max_buckets": [1, math.inf],
                    "keep_newer": [1, None, "yes"],
                },
            ),
            (
                SlidingWindowDetector,
                {
                    "window_size": [0, 10.0],
                    "reference_size": [1, "5000"],
                    "threshold": [0, -0.05, math.nan],
                    "direction": ["UP"],
                    "reference": [[], [1.0], [1.0, math.nan], [1.0, None], 3, ["a", "b"]],
                },
            ),
        )
        for name, values in bad.items()
        for value in values
    ],
)
def test_bad_arguments(detector: type[Any], arguments: dict[str, Any]) -> None:
    """A wrong argument is refused at construction, with its name, what was expected and what to do."""
    with pytest.raises(ConfigurationError, match=rf"Expected .*`{next(iter(arguments))}`.*\. \w+ .*\.$") as error:
        detector(**arguments)
    assert isinstance(error.value, ModelWatchError)
