"""What all detectors share: the protocol, the alarm flag, a state to move, and the checks of their parameters."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, ClassVar, Protocol, Self

from ..exceptions import ConfigurationError

# The square of a larger value, summed over any stream, could overflow and leave NaN in a running sum for ever.
LIMIT = 1e100
_DIRECTIONS = ("both", "up", "down")


class Detector(Protocol):
    """What everything that watches a stream can do."""

    def update(self, x: float) -> None:
        """Take the next value of the stream."""

    @property
    def drift_detected(self) -> bool:
        """True only from the update that alarmed to the next one."""


class StreamDetector(ABC):
    """What the detectors share: the counts, the alarm flag, and a state that is their attributes."""

    _PARAMETERS: ClassVar[tuple[str, ...]]

    def __init__(self) -> None:
        self.alarms = 0
        self.skipped = 0
        self._drift = False

    @property
    def drift_detected(self) -> bool:
        """True only from the update that alarmed to the next one."""
        return self._drift

    def reset(self) -> None:
        """Forget the stream, as if new; `alarms` and `skipped` stay, for they feed counters."""
        self._drift = False
        self._restart()

    @abstractmethod
    def _restart(self) -> None:
        """Put back what the stream has written."""

    def to_state(self) -> dict[str, Any]:
        """Parameters and place in the stream, copied, as `json.dumps` takes them; read only by `from_state`."""
        return {"detector": type(self).__name__, **copy.deepcopy(vars(self))}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """A detector that goes on where that of `to_state` stood. `state` is copied.

        Raises
        ------
        ConfigurationError
            The state is another detector's, or has other fields, other types or a number that is not finite.
        """
        try:
            detector = cls(**{name: state[name] for name in cls._PARAMETERS})
            expected = {"detector": cls.__name__, **vars(detector)}
            if state["detector"] != cls.__name__ or _types_of(state) != _types_of(expected):
                raise TypeError("its fields are not those of this detector")
            if not all(map(_is_finite, state.values())):
                raise ValueError("it holds a number that is not finite")
        except (ConfigurationError, KeyError, TypeError, ValueError) as error:
            raise ConfigurationError(
                f"Expected what {cls.__name__}.to_state() returned, but this state cannot be used ({error!r}). "
                f"Begin with a new {cls.__name__} instead."
            ) from error
        vars(detector).update((name, copy.deepcopy(state[name])) for name in vars(detector))
        return detector


def _types_of(fields: Mapping[str, Any]) -> dict[str, type]:
    return {name: type(value) for name, value in fields.items()}


def _is_finite(value: object) -> bool:
    """Whether no number is NaN or infinite, and lists hold floats or lists of such."""
    if isinstance(value, list):
        return all(isinstance(item, float | list) and _is_finite(item) for item in value)
    return not isinstance(value, float) or math.isfinite(value)


def refusal(name: str, value: object, expected: str) -> ConfigurationError:
    """The error that names a parameter, what was expected and what came."""
    return ConfigurationError(f"Expected `{name}` to be {expected}, but it is {value!r}. Change it or leave it out.")


def checked_real(name: str, value: float, expected: str, valid: Callable[[float], bool]) -> float:
    """`value` as a float, or ConfigurationError if it is no finite number, or not valid."""
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or not valid(value):
        raise refusal(name, value, expected)
    return float(value)


def checked_whole(name: str, value: int, least: int) -> int:
    """`value` as an int, or ConfigurationError if it is no whole number, or less than `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise refusal(name, value, f"a whole number of at least {least}")
    return int(value)


def checked_direction(value: str) -> str:
    """`value` itself, or ConfigurationError if it is no direction."""
    if value not in _DIRECTIONS:
        raise refusal("direction", value, 'one of "both", "up", "down"')
    return value
