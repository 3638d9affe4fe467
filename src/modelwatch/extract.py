"""From an endpoint's arguments to rows: one tuple of plain values per row, copied, no object of the user's kept.

A `Source` is compiled once per endpoint. For a flat model it is one `itemgetter` on the instance's dict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from enum import Enum
from itertools import islice
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np

from ._types import ABSENT
from .exceptions import RowsError
from .fields import Leaf, Shape, match

Row = tuple[Any, ...]
Names = tuple[str, ...]

UNREADABLE = ()
"""Stands for an object that is no value: it counts as one of a wrong type, and says nothing of what it was."""

_LONGEST_TEXT = 1_000
_MOST_NAMES = 2_000
_MOST_ROWS = 100_000
_TEXTS = {"datetime", "uuid", "pathlib", "ipaddress"}
_PLAIN = {int, float, bool, type(None), type(ABSENT)}


class Rows(NamedTuple):
    """Names of the features, and one tuple of values for each row."""

    names: Names
    rows: list[Row]


class Source:
    """Where an endpoint's rows are, compiled.

    Parameters
    ----------
    names
        The features that it brings, in the order of the rows' values.
    leaves
        One for each name: its path from the row, or from the arguments if they are the row.
    path
        Path to the list of rows; None if the arguments are one row.

    Notes
    -----
    Threads and processes: never changes, so any number.

    >>> source = Source(("distance", "city"), [Leaf(("trip", "km"), (), True), Leaf(("city",), (), False)], None)
    >>> source.rows({"trip": {"km": 2.5}, "city": "Rome"})
    [(2.5, 'Rome')]
    """

    def __init__(self, names: Names, leaves: Sequence[Leaf], path: tuple[str, ...] | None) -> None:
        self.names = names
        self.path = path
        self.paths = tuple(leaf.path for leaf in leaves)
        self._fast = _compiled(self.paths)
        # Of one model among the arguments, as it mostly is: what `_fast` does, without the call.
        parents = {leaf.path[:-1] for leaf in leaves}
        only = parents.pop() if len(parents) == 1 else ()
        self._only = only[0] if len(only) == 1 else None
        self._getter = _getter([path[-1] for path in self.paths])
        self._tame = tuple(i for i, leaf in enumerate(leaves) if not leaf.number)

    def rows(self, arguments: Mapping[str, Any]) -> list[Row]:
        """The rows in an endpoint's arguments, new. What is not there is ABSENT; what is no value is UNREADABLE."""
        if self.path is None:
            try:
                if self._only is None:
                    row = self._fast(arguments)
                else:
                    model = arguments[self._only]
                    row = self._getter(model if type(model) is dict else model.__dict__)
            except (AttributeError, KeyError, TypeError):
                row = self._row(arguments)
            return [_tamed(row, self._tame)] if self._tame else [row]
        items = follow(arguments, self.path)
        if not isinstance(items, list | tuple):
            items = [] if items is None or items is ABSENT else list(items)
        if not self._tame:
            fast = self._fast
            try:  # all of one kind, and whole, as they mostly are
                return [fast(item.__dict__) for item in items]
            except (AttributeError, KeyError, TypeError):
                pass
        return [self._row(item) for item in items]

    def _row(self, item: Any) -> Row:
        try:
            row: Row = self._fast(item if type(item) is dict else item.__dict__)
        except (AttributeError, KeyError, TypeError):  # None where a model may be, slots, another model of a union
            row = tuple(follow(item, path) for path in self.paths)
        if self._tame:
            return _tamed(row, self._tame)
        return row


def choose(shape: Shape, features: Names | None) -> Source | None:
    """The place in a body where most of the features are; None if none is anywhere.

    Without `features` the only list of rows is taken, else the arguments as one row, with all that they hold.
    """
    places: list[tuple[tuple[str, ...] | None, Sequence[Leaf]]] = [(None, shape.leaves)]
    places += [(rows.path, rows.leaves) for rows in shape.lists if rows.leaves]
    if features is None:
        lists = places[1:]
        path, leaves = lists[0] if len(lists) == 1 else places[0]
        found = _all_named(leaves)
    else:
        found, path = max(((match(leaves, features), path) for path, leaves in places), key=lambda place: len(place[0]))
    names = features if features is not None and len(found) == len(features) else tuple(found)
    return Source(names, list(found.values()), path) if found else None


def leaves_at(shape: Shape, path: tuple[str, ...] | None) -> tuple[Leaf, ...]:
    """What is to be found at a source's place."""
    if path is None:
        return shape.leaves
    return next((rows.leaves for rows in shape.lists if rows.path == path and rows.leaves), ())


def look(value: Any, features: Names | None) -> Rows:
    """The rows in any object: a dict or model, a list of them, lists of numbers in the reference's order, a table.

    For what types do not tell: plain dicts, and what a function of the user's returns.

    Raises
    ------
    RowsError
        It is a text, or an iterator without end.
    """
    if isinstance(value, str | bytes | bytearray):
        raise RowsError(f"Expected rows, got {type(value).__name__}. Return a dict, a list of them, or a table.")
    if _is_object(value) or isinstance(value, Mapping):
        items = [value]
    elif hasattr(value, "columns"):
        names = tuple(map(str, value.columns))[:_MOST_NAMES]
        columns = [list(value[name]) for name in value.columns][:_MOST_NAMES]
        return Rows(names, [_tamed(row, range(len(names))) for row in zip(*columns, strict=True)])
    else:
        listed = value.tolist() if isinstance(value, np.ndarray) else value
        sized = hasattr(listed, "__len__")
        items = list(listed if sized else islice(listed, _MOST_ROWS + 1))
        if len(items) > _MOST_ROWS and not sized:
            raise RowsError(f"Expected an iterator of at most {_MOST_ROWS} rows, got more. Return a list of them.")
    if items and features is not None and isinstance(items[0], list | tuple | np.ndarray):
        return Rows(features, [_padded(item, len(features)) for item in items])
    names = features if features is not None else _keys(items)
    return Rows(names, [tame([step(item, name) for name in names]) for item in items])


def share(rows: Rows) -> float:
    """Share of the names that have a value in the first row, between 0 and 1."""
    if not rows.rows or not rows.names:
        return 0.0
    return sum(value is not ABSENT for value in rows.rows[0]) / len(rows.names)


def follow(item: Any, path: Iterable[str]) -> Any:
    """What a path of keys and attributes leads to, ABSENT if it breaks off; of a list what it leads to in each item."""
    for name in path:
        item = [step(one, name) for one in item] if isinstance(item, list | tuple) else step(item, name)
        if item is ABSENT:
            return ABSENT
    return item


def step(item: Any, name: str) -> Any:
    """One key or attribute of an object, ABSENT if it has none. Properties of pydantic models count, methods don't."""
    if isinstance(item, Mapping):
        return item.get(name, ABSENT)
    if item is None:
        return ABSENT
    value = getattr(item, name, ABSENT)
    return ABSENT if callable(value) else value


def tame(row: Iterable[Any]) -> Row:
    """A copy of values without objects of the user's: numbers, text of at most 1,000 characters, None."""
    values = tuple(row)
    return values if _PLAIN.issuperset(map(type, values)) else tuple([_plain(value) for value in values])


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind in _PLAIN or isinstance(value, Decimal):
        return value
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, str):
        return str(value[:_LONGEST_TEXT])
    if isinstance(value, float | int):  # a subclass may hold anything
        return float(value) if isinstance(value, float) else int(value)
    module = kind.__module__.partition(".")[0]
    return str(value)[:_LONGEST_TEXT] if module in _TEXTS else UNREADABLE


def _tamed(row: Row, places: Iterable[int]) -> Row:
    for i in places:
        value = row[i]
        if type(value) not in _PLAIN and (type(value) is not str or len(value) > _LONGEST_TEXT):
            return tame(row)
    return row


def _compiled(paths: Sequence[tuple[str, ...]]) -> Callable[[Mapping[str, Any]], Row]:
    """A function of a dict that gets all paths at once, and raises where one breaks off."""
    parents: dict[tuple[str, ...], list[int]] = {}
    for i, path in enumerate(paths):
        parents.setdefault(path[:-1], []).append(i)
    parts = [(parent, _getter([paths[i][-1] for i in places])) for parent, places in parents.items()]
    if len(parts) == 1:
        parent, getter = parts[0]
        if not parent:
            return getter
        if len(parent) == 1:
            only = parent[0]

            def one_deep(item: Mapping[str, Any]) -> Row:
                inner = item[only]
                return getter(inner if type(inner) is dict else inner.__dict__)

            return one_deep
    order = [i for places in parents.values() for i in places]
    sort = _getter([order.index(i) for i in range(len(order))])

    def deep(item: Mapping[str, Any]) -> Row:
        values: Row = ()
        for parent, getter in parts:
            inner: Any = item
            for name in parent:
                inner = inner[name] if type(inner) is dict else inner.__dict__[name]
            values += getter(inner if type(inner) is dict else inner.__dict__)
        return sort(values)

    return deep


def _getter(keys: list[Any]) -> Callable[[Any], Row]:
    """`itemgetter` that gives a tuple for one key too."""
    if len(keys) > 1:
        return itemgetter(*keys)
    only = keys[0]
    return lambda item: (item[only],)


def _all_named(leaves: Sequence[Leaf]) -> dict[str, Leaf]:
    """All leaves by name; those of one name by their paths with dots."""
    names = [leaf.names[0] for leaf in leaves]
    return {leaf.names[0] if names.count(leaf.names[0]) == 1 else leaf.names[-1]: leaf for leaf in leaves[:_MOST_NAMES]}


def _padded(values: Any, size: int) -> Row:
    row = tame(values.tolist() if isinstance(values, np.ndarray) else values)[:size]
    return row + (ABSENT,) * (size - len(row))


def _keys(items: Sequence[Any]) -> Names:
    """Names that come up in plain rows, in the order in which they come, at most 2,000."""
    keys: dict[str, None] = {}
    for item in items:
        found = item if isinstance(item, Mapping) else getattr(item, "__dict__", {})
        keys.update(dict.fromkeys(key for key in found if isinstance(key, str)))
        if len(keys) >= _MOST_NAMES:
            break
    return tuple(keys)[:_MOST_NAMES]


def _is_object(value: Any) -> bool:
    """Whether it has fields as a pydantic model or a dataclass has."""
    return hasattr(type(value), "model_fields") or hasattr(type(value), "__dataclass_fields__")
