"""Where a body's values are, told from its types alone: models, dataclasses, typed dicts, nested, alone or in lists.

::

    annotation ── read ──► Shape: leaves (a value, and the path to it), lists of rows, and whether a dict hides more
    leaves + names of the features ── match ──► which leaf is which feature
"""

from __future__ import annotations

import collections.abc
import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, NamedTuple, Union, get_args, get_origin

_DEEPEST = 5
_MOST_LEAVES = 2_000
_NUMBERS = (bool, int, float)
_LISTS = (list, tuple, set, frozenset, collections.abc.Sequence, collections.abc.Iterable, collections.abc.Collection)
_DICTS = (dict, collections.abc.Mapping, collections.abc.MutableMapping)
_NO_VALUES = {"UploadFile", "Request", "HTTPConnection", "Response", "BackgroundTasks", "WebSocket", "bytes"}


class Leaf(NamedTuple):
    """One value of a body.

    Attributes
    ----------
    path
        Keys or attributes that lead to it.
    names
        What it may be called: its field's name first, then its aliases, then the path with dots.
    number
        Whether the type alone says that it is a plain number.
    """

    path: tuple[str, ...]
    names: tuple[str, ...]
    number: bool


class RowList(NamedTuple):
    """A list of rows: the path to it, and the leaves of each row, seen from the row. No leaves: rows of plain dicts."""

    path: tuple[str, ...]
    leaves: tuple[Leaf, ...]


class Shape(NamedTuple):
    """What types tell of a body.

    Attributes
    ----------
    leaves, lists
        Single values, and lists of rows.
    hidden
        Paths to what only a request can show: dicts and objects of any type.
    """

    leaves: tuple[Leaf, ...]
    lists: tuple[RowList, ...]
    hidden: tuple[tuple[str, ...], ...]


class Field(NamedTuple):
    """One field of a model, or one parameter of an endpoint."""

    name: str
    aliases: tuple[str, ...]
    annotation: Any


def read(fields: Iterable[Field]) -> Shape:
    """The shape of what these fields hold. Never raises for what an annotation is.

    >>> @dataclasses.dataclass
    ... class Trip:
    ...     distance: float
    ...     city: str
    >>> shape = read([Field("trip", (), Trip), Field("more", (), list[Trip])])
    >>> [leaf.path for leaf in shape.leaves], [rows.path for rows in shape.lists]
    ([('trip', 'distance'), ('trip', 'city')], [('more',)])
    """
    found = _Found([], [], [])
    for field in fields:
        _read(field, (), (), found)
    return Shape(
        tuple(dict.fromkeys(found.leaves[:_MOST_LEAVES])),
        tuple(dict.fromkeys(found.lists)),
        tuple(dict.fromkeys(found.hidden)),
    )


def fields_of(kind: Any) -> list[Field]:
    """Fields of a pydantic model, a dataclass or a typed dict; empty for any other type."""
    if not isinstance(kind, type):
        return []
    models = getattr(kind, "model_fields", None)
    if isinstance(models, dict):
        return [Field(name, _aliases(info), getattr(info, "annotation", Any)) for name, info in models.items()]
    if dataclasses.is_dataclass(kind) or (hasattr(kind, "__total__") and dict in kind.__mro__):  # any TypedDict
        try:
            hints = typing.get_type_hints(kind, include_extras=True)
        except Exception:  # noqa: BLE001 - a name that exists for type checkers only
            hints = dict(getattr(kind, "__annotations__", {}))
        return [Field(name, (), hint) for name, hint in hints.items() if get_origin(hint) is not typing.ClassVar]
    return []


def match(leaves: Sequence[Leaf], features: Iterable[str]) -> dict[str, Leaf]:
    """The leaf of each feature that has exactly one of that name, or exactly one that is nearest to the top."""
    known: dict[str, list[Leaf]] = {}
    for leaf in leaves:
        for name in leaf.names:
            known.setdefault(name, []).append(leaf)
    found = {}
    for feature in features:
        named = known.get(feature, [])
        top = min((len(leaf.path) for leaf in named), default=0)
        nearest = [leaf for leaf in named if len(leaf.path) == top]
        if len(nearest) == 1:
            found[feature] = nearest[0]
    return found


def nearest(missing: Iterable[str], leaves: Iterable[Leaf]) -> dict[str, str | None]:
    """For each feature that was not found the name there is that looks most like it, if any does."""
    names = list(dict.fromkeys(name for leaf in leaves for name in leaf.names))
    lower = {name.lower().replace("_", "").replace("-", ""): name for name in reversed(names)}
    found: dict[str, str | None] = {}
    for feature in missing:
        same = lower.get(feature.lower().replace("_", "").replace("-", ""))
        near = [same] if same is not None else difflib.get_close_matches(feature, names, n=1)
        found[feature] = near[0] if near else None
    return found


def alternatives(annotation: Any) -> Iterator[Any]:
    """The types that an annotation stands for, without Annotated, aliases of types, and None."""
    while True:
        if get_origin(annotation) in {Annotated, typing.Required, typing.NotRequired}:
            annotation = get_args(annotation)[0]
        elif hasattr(annotation, "__supertype__"):  # NewType
            annotation = annotation.__supertype__
        elif type(annotation).__name__ == "TypeAliasType":  # `type X = …`, from Python 3.12 on
            annotation = annotation.__value__
        elif isinstance(annotation, typing.TypeVar) and annotation.__bound__ is not None:
            annotation = annotation.__bound__
        else:
            break
    if get_origin(annotation) in {Union, types.UnionType}:
        for part in get_args(annotation):
            yield from alternatives(part)
    elif annotation is not type(None):
        yield annotation


def _aliases(info: Any) -> tuple[str, ...]:
    """All texts by which pydantic may know a field: alias, validation_alias (one or a choice), serialization_alias."""
    found = [getattr(info, key, None) for key in ("alias", "validation_alias", "serialization_alias")]
    found += getattr(found[1], "choices", [])
    return tuple(dict.fromkeys(alias for alias in found if isinstance(alias, str)))


class _Found(NamedTuple):
    leaves: list[Leaf]
    lists: list[RowList]
    hidden: list[tuple[str, ...]]


def _read(field: Field, above: tuple[str, ...], seen: tuple[type, ...], found: _Found) -> None:
    path = (*above, field.name)
    kinds = list(alternatives(field.annotation))
    values = False
    for kind in kinds:
        origin = get_origin(kind) or kind
        inner = fields_of(origin)
        if inner:
            if origin not in seen and len(path) <= _DEEPEST and len(found.leaves) < _MOST_LEAVES:
                for part in inner:
                    _read(part, path, (*seen, origin), found)
        elif origin in _LISTS:
            _read_list(kind, path, seen, found)
        elif origin in _DICTS:
            found.hidden.append(path)
        elif origin is Any or origin is object:
            found.hidden.append(path)
            values = values or bool(above)
        elif getattr(origin, "__name__", "") not in _NO_VALUES:
            values = True
    if values:
        dotted = [".".join(path[start:]) for start in (1, 0) if len(path) > start + 1]
        number = all(any(kind is one for one in _NUMBERS) for kind in kinds)  # not by hash: some types have none
        found.leaves.append(Leaf(path, tuple(dict.fromkeys((field.name, *field.aliases, *dotted))), number))


def _read_list(kind: Any, path: tuple[str, ...], seen: tuple[type, ...], found: _Found) -> None:
    parts = [part for argument in get_args(kind) if argument is not ... for part in alternatives(argument)]
    rows = _Found([], [], [])
    for part in parts:
        origin = get_origin(part) or part
        if origin in _DICTS:
            found.lists.append(RowList(path, ()))
        elif origin not in seen:
            for field in fields_of(origin):
                _read(field, (), (*seen, origin), rows)  # paths are seen from the row; lists within rows are no rows
    if rows.leaves:
        found.lists.append(RowList(path, tuple(dict.fromkeys(rows.leaves[:_MOST_LEAVES]))))
    elif not parts or parts == [Any]:
        found.hidden.append(path)
