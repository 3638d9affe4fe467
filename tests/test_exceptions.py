"""The error tree: one root, the tree that the module draws, and all of them ValueErrors."""

from __future__ import annotations

import inspect
import re

import pytest

from modelwatch import exceptions
from modelwatch.exceptions import ModelWatchError

CLASSES = [
    value
    for value in vars(exceptions).values()
    if inspect.isclass(value) and issubclass(value, BaseException) and value.__module__ == exceptions.__name__
]


def test_the_drawing_is_the_tree():
    """The tree drawn at the top of the module names every class below its parent, and no other."""
    drawn, path = {}, {}
    for line in exceptions.__doc__.splitlines():
        found = re.match(r"^    ([\s│├└─]*)(\w+Error)\b", line)
        if found:
            depth = len(found[1])
            path[depth] = found[2]
            above = [at for at in path if at < depth]
            drawn[found[2]] = path[max(above)] if above else None
    assert drawn == {c.__name__: c.__bases__[0].__name__ if c is not ModelWatchError else None for c in CLASSES}


@pytest.mark.parametrize("error", [c for c in CLASSES if c is not ModelWatchError])
def test_errors_are_caught_by_the_root_and_as_value_errors(error):
    """A user who knows only the root, or only ValueError, catches each of them."""
    for caught in (ModelWatchError, ValueError):
        with pytest.raises(caught, match="why"):
            raise error("why")
    assert error.__doc__
