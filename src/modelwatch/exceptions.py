"""The errors of the library. Each message says what was expected, what came and what to do.

::

    ModelWatchError
    ├── ConfigurationError (ValueError)     an argument, a setting or an environment variable cannot be used
    ├── TableError (ValueError)             training data that cannot be profiled
    ├── ReferenceFileError (ValueError)     a reference file that is missing, damaged or not one
    ├── CellsError (ValueError)             two profiles, or counts and a profile, do not share their cells
    ├── RowsError (ValueError)              what was recorded cannot be read as rows
    ├── SegmentError (ValueError)           a file that a worker shares with the others cannot be used
    └── CountsError (ValueError)            what should be count vectors are none
        └── EmptyCountsError                ... or sum to zero, so there is nothing to compare

All are raised where something is configured or asked for. None is raised while a request is served.
"""

from __future__ import annotations


class ModelWatchError(Exception):
    """The root of the library's errors."""


class ConfigurationError(ModelWatchError, ValueError):
    """An argument, a setting or an environment variable that cannot be used."""


class TableError(ModelWatchError, ValueError):
    """Training data that cannot be profiled: no rows, ragged columns, lists in a column, a reserved name."""


class ReferenceFileError(ModelWatchError, ValueError):
    """A reference file that is missing, too large, damaged, of another version, or no reference at all."""


class CellsError(ModelWatchError, ValueError):
    """Two profiles, or counts and a profile, that do not share their cells."""


class RowsError(ModelWatchError, ValueError):
    """What was recorded cannot be read as rows of features."""


class SegmentError(ModelWatchError, ValueError):
    """A file that a worker shares with the others cannot be used: users see a counter, by `reason`, and no error."""

    def __init__(self, detail: str, reason: str = "damaged") -> None:
        super().__init__(f"Expected a file of counts that a worker of this service shares, but {detail}. Remove it.")
        self.reason = reason


class CountsError(ModelWatchError, ValueError):
    """What should be two count vectors of one shape is none."""


class EmptyCountsError(CountsError):
    """A count vector sums to zero: there is nothing to compare."""
