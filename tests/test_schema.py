"""The schema of a reference file: whatever is wrong in it is named, with field and remedy, before anything is built."""

from __future__ import annotations

import copy
import json
import pickle
import re

import numpy as np
import pytest

from modelwatch.exceptions import ReferenceFileError
from modelwatch.files import ReferenceProfile
from modelwatch.schema import parse

rng = np.random.default_rng(0)
TABLE = {"age": rng.normal(size=900), "hour": rng.integers(0, 5, 900), "plan": rng.choice(["a", "b"], 900)}
TEXT = ReferenceProfile.fit(TABLE).to_json()
CONTENT = json.loads(TEXT)


def edited(*path, value):
    """The file's text with another value at a path; the checksum is not what stops it."""
    content = copy.deepcopy(CONTENT)
    at = content
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value(at[path[-1]]) if callable(value) else value
    return json.dumps(content)


def refused(text):
    with pytest.raises(ReferenceFileError) as caught:
        parse(text, "the file 'r.json'")
    message = str(caught.value)
    assert message.startswith("Expected ")
    assert message.endswith(".")
    assert "'r.json'" in message
    assert "rite it " in message  # the remedy
    return message


def test_what_was_saved_is_accepted():
    """The text of a profile passes, as text or as bytes."""
    for text in (TEXT, TEXT.encode()):
        assert [feature.name for feature in parse(text, "it").features] == ["age", "hour", "plan"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "{",
        TEXT[:-1],
        TEXT[: len(TEXT) // 2],
        TEXT + "x",
        "\x00" * 50,
        b"\xff\xfe{}",
        "[" * 100_000,
        '{"a":' * 100_000,
    ],
    ids=["empty", "blank", "brace", "cut by one", "cut in half", "more after", "zeros", "no UTF-8", "deep", "deeper"],
)
def test_what_is_no_json(text):
    """An empty, truncated, binary or endlessly nested file is refused."""
    assert "truncated, or another file" in refused(text)


def test_numbers_of_endless_digits():
    """A number with too many digits is refused, not computed."""
    refused('{"format": "modelwatch reference", "version": ' + "9" * 100_000 + "}")


def test_a_pickle_is_never_read():
    """A pickle is refused as such, and not loaded."""
    assert "pickle, which is never read" in refused(pickle.dumps(CONTENT))


@pytest.mark.parametrize(
    "text", ["[]", "null", "5", '"x"', "{}", '{"format": "other"}', '{"version": 1}', '{"format": []}']
)
def test_another_schema(text):
    """JSON that is no reference is refused by its field `format`."""
    assert "`format`" in refused(text)


@pytest.mark.parametrize("version", [0, 2, "1", None, 1.5, [], {}])
def test_another_version(version):
    """Another version is refused with the one that came."""
    assert re.search(r"field `version` of .* to be 1, got ", refused(edited("version", value=version)))
    assert "`version`" in refused(json.dumps({"format": "modelwatch reference"}))


def swap(numbers):
    return [numbers[1], numbers[0], *numbers[2:]]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (["features", 0, "cuts"], swap, "`cuts` must rise"),
        (["features", 0, "cuts"], lambda cuts: [cuts[0], *cuts[:-1]], "`cuts` must rise"),
        (["features", 0, "edges"], swap, "`edges` must rise"),
        (["features", 0, "edges"], lambda edges: [x + 0.5 for x in edges], "each of `edges` must be one of `cuts`"),
        (["features", 0, "edges"], None, "at most 20 distinct values"),
        (["features", 0, "edges"], [], "features.0.edges"),
        (["features", 0, "cuts"], [], "features.0.cuts"),
        (["features", 0, "cuts", 3], "x", "features.0.cuts.3"),
        (["features", 0, "cuts", 3], float("nan"), "features.0.cuts.3"),
        (["features", 0, "cuts", 3], float("inf"), "features.0.cuts.3"),
        (["features", 0, "cuts"], list(range(2_000)), "features.0.cuts"),
        (["features", 0, "dtype"], "object", "features.0.dtype"),
        (["features", 0, "counts"], lambda counts: counts[:-1], "`counts` must have "),
        (["features", 1, "counts"], lambda counts: [*counts, 0], "`counts` must have "),
        (["features", 0, "counts", 5], -1, "features.0.counts.5"),
        (["features", 0, "counts", 5], 1.5, "features.0.counts.5"),
        (["features", 0, "counts", 5], 2**60, "features.0.counts.5"),
        (["features", 0, "counts", 5], 10**6, "the `counts` of 'age' must not add up to more than `rows`"),
        (["features", 0, "means"], lambda means: means[:-1], "`means` must have "),
        (["features", 0, "sd"], -1.0, "features.0.sd"),
        (["features", 0, "mean"], float("nan"), "features.0.mean"),
        (["features", 0, "floors"], [[0, 0.1, 0.1]], "features.0.floors.0.0"),
        (["features", 0, "floors"], [[200, 1.1, 0.1]], "features.0.floors.0.1"),
        (["features", 0, "floors"], [[200, 0.1]], "features.0.floors.0"),
        (["features", 0, "kind"], "strange", "features.0"),
        (["features", 0, "name"], "", "features.0.name"),
        (["features", 1, "name"], "age", "no two `features` may have one name"),
        (["features", 0, "extra"], 1, "features.0.extra"),
        (["features", 2, "categories"], ["a", "a"], "no category may stand twice"),
        (["features", 2, "rare"], ["a"], "no category may stand twice"),
        (["features", 2, "counts"], lambda counts: counts[:-1], "`counts` must have "),
        (["features", 2, "categories"], "ab", "features.2.categories"),
        (["features", 2, "hashed"], "perhaps", "features.2.hashed"),
        (["features"], [], "`features`"),
        (["features"], {}, "`features`"),
        (["rows"], 0, "`rows`"),
        (["rows"], "many", "`rows`"),
        (["target"], 5, "`target`"),
        (["checksum"], "abc", "`checksum`"),
        (["checksum"], None, "`checksum`"),
        (["more"], 1, "`more`"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(path, value, said):
    """What is out of order, negative, of the wrong length, unknown or no number is refused, with its field."""
    if path[-1] in {"extra", "more"}:
        content = copy.deepcopy(CONTENT)
        at = content
        for step in path[:-1]:
            at = at[step]
        at[path[-1]] = value
        text = json.dumps(content)
    else:
        text = edited(*path, value=value)
    assert said in refused(text)


@pytest.mark.parametrize("field", ["rows", "target", "features", "checksum"])
def test_a_missing_field_is_named(field):
    """A field that is not there is refused by name."""
    assert f"`{field}`" in refused(json.dumps({name: value for name, value in CONTENT.items() if name != field}))


def test_values_do_not_stand_in_messages():
    """A message never carries the content of the file, which may be long or confidential."""
    assert "xyzzy" not in refused(edited("features", 0, "cuts", 0, value="xyzzy" * 100))
