"""What a reference file holds, checked field by field before anything is built from it."""

from __future__ import annotations

import itertools
import json
import re
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .cells import MOST, CategoricalCells, NumericCells
from .exceptions import ReferenceFileError
from .tables import LONGEST_NAME

VERSION = 1
_MOST_FEATURES = 2_002  # the prediction and the confidence are two more
_LONGEST_SHOWN = 80
Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Share = Annotated[float, Field(ge=0, le=1)]
_Where = tuple[str | int, ...]
FloorFields = tuple[Annotated[int, Field(ge=1)], Share, Share]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


_Model = TypeVar("_Model", bound=_Strict)


class NumericFeature(_Strict):
    """A numeric feature as the file has it."""

    name: Name
    column: Name
    kind: Literal["numeric"]
    cuts: Annotated[list[Number], Field(min_length=2, max_length=MOST - 5)]
    edges: Annotated[list[Number], Field(min_length=1, max_length=9)] | None
    dtype: Annotated[str, Field(pattern=r"^(float|int|uint)\d{1,3}$")]
    counts: Annotated[list[Count], Field(max_length=MOST)]
    floors: Annotated[list[FloorFields], Field(max_length=10)]
    means: Annotated[list[Number | None], Field(max_length=MOST)] | None
    mean: Number | None
    sd: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None

    @model_validator(mode="after")
    def _agree(self) -> NumericFeature:
        _rise("cuts", self.cuts)
        if self.edges is not None:
            _rise("edges", self.edges)
            if not set(self.edges) <= set(self.cuts):
                raise ValueError("each of `edges` must be one of `cuts`")
        cells = NumericCells(self.cuts, self.edges, self.dtype)
        _length("counts", self.counts, cells.size)
        # Where two of 20 values lie two floats apart, what is between them is a point too.
        if self.edges is None and len(cells.bins) > 40:
            raise ValueError("`edges` may be null for at most 20 distinct values")
        if self.means is not None:
            _length("means", self.means, cells.values)
        return self


class CategoricalFeature(_Strict):
    """A categorical feature as the file has it."""

    name: Name
    column: Name
    kind: Literal["categorical"]
    categories: Annotated[list[str], Field(max_length=MOST - 4)]
    rare: Annotated[list[str], Field(max_length=10_000)]
    hashed: bool
    counts: Annotated[list[Count], Field(max_length=MOST)]
    floors: Annotated[list[FloorFields], Field(max_length=10)]

    @model_validator(mode="after")
    def _agree(self) -> CategoricalFeature:
        names = [*self.categories, *self.rare]
        if len(set(names)) < len(names):
            raise ValueError("no category may stand twice in `categories` and `rare`")
        _length("counts", self.counts, CategoricalCells(self.categories, self.rare).size)
        return self


class File(_Strict):
    """A reference file."""

    format_: Literal["modelwatch reference"] = Field(alias="format")
    version: Literal[1]
    rows: Annotated[int, Field(ge=1, lt=2**53)]
    target: str | None
    time: str | None
    features: Annotated[
        list[Annotated[NumericFeature | CategoricalFeature, Field(discriminator="kind")]],
        Field(min_length=1, max_length=_MOST_FEATURES),
    ]
    checksum: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    @model_validator(mode="after")
    def _agree(self) -> File:
        seen: set[str] = set()
        for name in (feature.name for feature in self.features):
            if name in seen:
                raise ValueError(f"no two `features` may have one name, as {_shown(name)} here")
            seen.add(name)
        for feature in self.features:
            # Less, where a profile was made of counts of a table that lacked the prediction.
            if sum(feature.counts) > self.rows:
                raise ValueError(f"the `counts` of {_shown(feature.name)} must not add up to more than `rows`")
        return self


def parse(text: str | bytes, source: str) -> File:
    """The checked content of a reference file.

    Raises
    ------
    ReferenceFileError
        It is no JSON, no reference, of another version, or a field is wrong: the message names source, field, remedy.
    """
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError) as error:
        what = "a pickle, which is never read" if text[:1] in {b"\x80", "\x80"} else f"no JSON ({error!s:.100})"
        raise ReferenceFileError(
            f"Expected {source} to be a reference, but it is {what}: truncated, or another file. "
            "Write it with `ReferenceProfile.save`."
        ) from error
    if not isinstance(content, dict) or content.get("format") != "modelwatch reference":
        raise ReferenceFileError(
            f'Expected {source} to be a reference, but its field `format` is not "modelwatch reference". '
            "Write it with `ReferenceProfile.save`."
        )
    if content.get("version") != VERSION:
        raise ReferenceFileError(
            f"Expected the field `version` of {source} to be {VERSION}, got {content.get('version')!r:.50}. "
            "Write it again with the version of modelwatch that reads it."
        )
    features = content.get("features")
    if isinstance(features, list):
        if len(features) > _MOST_FEATURES:
            raise _wrong(source, ("features",), f"it may have at most {_MOST_FEATURES} items, got {len(features)}")
        content["features"] = [_feature(feature, i, source) for i, feature in enumerate(features)]
    return _checked(File, content, (), source)


# One feature after another, and no field that is unknown: pydantic keeps an error for each item that is wrong, and a
# file may hold millions of them.
def _feature(content: Any, number: int, source: str) -> NumericFeature | CategoricalFeature:
    where: _Where = ("features", number)
    if not isinstance(content, dict):
        raise _wrong(source, where, "it must be an object with the fields of a feature")
    kind, name = content.get("kind"), content.get("name")
    of = f"{source}, feature {_shown(name)}," if isinstance(name, str) else source
    if kind == "numeric":
        return _checked(NumericFeature, content, where, of)
    if kind == "categorical":
        return _checked(CategoricalFeature, content, where, of)
    raise _wrong(of, (*where, "kind"), 'it must be "numeric" or "categorical"')


def _checked(model: type[_Model], content: dict[str, Any], where: _Where, source: str) -> _Model:
    known = {field.alias or name for name, field in model.model_fields.items()}
    unknown = next((name for name in content if name not in known), None)
    if unknown is not None:
        raise _wrong(source, (*where, unknown), "there is no such field")
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        raise _wrong(source, (*where, *first["loc"]), first["msg"].removeprefix("Value error, ")) from error


def _wrong(source: str, where: _Where, message: str) -> ReferenceFileError:
    field = ".".join(part if re.fullmatch(r"\w{1,60}", part) else _shown(part) for part in map(str, where))
    named = f"the field `{field}` of {source}" if field else f"the fields of {source}"
    return ReferenceFileError(
        f"Expected {named} to be as `save` writes it, but: {message}. Write it again from the training data."
    )


def _shown(text: str) -> str:
    """A text of the file in a message: on one line, and not at length."""
    return repr(text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…")


def _rise(name: str, numbers: list[float]) -> None:
    if not all(a < b for a, b in itertools.pairwise(numbers)):
        raise ValueError(f"the numbers in `{name}` must rise")


def _length(name: str, found: list[Any], expected: int) -> None:
    if len(found) != expected:
        raise ValueError(f"`{name}` must have {expected} items, got {len(found)}")
