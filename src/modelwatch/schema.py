"""What a reference file holds, checked field by field before anything is built from it."""

from __future__ import annotations

import itertools
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .cells import MOST, CategoricalCells, NumericCells
from .exceptions import ReferenceFileError
from .tables import LONGEST_NAME

VERSION = 1
Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=2**53)]
Share = Annotated[float, Field(ge=0, le=1)]
FloorFields = tuple[Annotated[int, Field(ge=1)], Share, Share]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


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
        Field(min_length=1, max_length=2_002),
    ]
    checksum: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]

    @model_validator(mode="after")
    def _agree(self) -> File:
        names = [feature.name for feature in self.features]
        if len(set(names)) < len(names):
            raise ValueError("no two `features` may have one name")
        for feature in self.features:
            # Less, where a profile was made of counts of a table that lacked the prediction.
            if sum(feature.counts) > self.rows:
                raise ValueError(f"the `counts` of {feature.name!r} must not add up to more than `rows`")
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
    try:
        return File.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"] if part not in {"numeric", "categorical"})
        where = f"the field `{field}` of {source}" if field else f"the fields of {source}"
        message = first["msg"].removeprefix("Value error, ")
        raise ReferenceFileError(
            f"Expected {where} to be as `save` writes it, but: {message}. Write it again from the training data."
        ) from error


def _rise(name: str, numbers: list[float]) -> None:
    if not all(a < b for a, b in itertools.pairwise(numbers)):
        raise ValueError(f"the numbers in `{name}` must rise")


def _length(name: str, found: list[Any], expected: int) -> None:
    if len(found) != expected:
        raise ValueError(f"`{name}` must have {expected} items, got {len(found)}")
