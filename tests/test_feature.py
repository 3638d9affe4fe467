"""One feature of a reference: what is kept of a column, and when a column looks like an id."""

from __future__ import annotations

import numpy as np
import pytest

from modelwatch.exceptions import TableError
from modelwatch.feature import fit_cells, fit_feature, from_file, refuse_ids, to_dict
from modelwatch.schema import CategoricalFeature, NumericFeature
from modelwatch.tables import Column


def feature(values, kind="numeric", dtype="float64"):
    data = Column(values, kind, dtype)
    return fit_feature("x", "x", data, fit_cells("x", data, 10, 50, hashed=False), None)


def test_means_are_kept_where_cells_do_not_tell():
    """Points tell their value; of an interval the mean of its rows is kept, and nothing where it has none."""
    assert feature([1.0, 2.0, 2.0, None]).means is None
    rng = np.random.default_rng(0)
    values = rng.normal(size=3_000)
    fitted = feature(values)
    index = fitted.cells.index(values)
    for cell in range(fitted.cells.values):
        inside = values[index == cell]
        assert np.isnan(fitted.means[cell]) if not inside.size else fitted.means[cell] == pytest.approx(inside.mean())


def test_of_categories_no_numbers_are_kept():
    """A categorical feature has counts, and neither mean nor spread."""
    fitted = feature(["a"] * 20 + [None], "categorical", "")
    assert fitted.means is None
    assert np.isnan([fitted.mean, fitted.sd]).all()
    assert fitted.counts.tolist() == [20, 0, 0, 1, 0]


@pytest.mark.parametrize("values", [[None] * 9, [np.inf, -np.inf], [np.nan], [1.7976931348623157e308], ["x", "y"]])
def test_a_column_without_numbers_makes_no_cells(values):
    """A numeric column of gaps, infinities, sentinels of the largest float or texts is refused by name."""
    with pytest.raises(TableError, match="Expected column 'x' to hold at least one finite number, got none"):
        feature(values)


def test_a_written_feature_is_read_again():
    """What is written of a feature makes the same one."""
    for fitted, schema in (
        (feature(np.random.default_rng(0).normal(size=2_000)), NumericFeature),
        (feature([1.0, 2.0, np.inf] * 9), NumericFeature),
        (feature(["a"] * 20 + ["b"], "categorical", ""), CategoricalFeature),
    ):
        assert to_dict(from_file(schema.model_validate(to_dict(fitted)))) == to_dict(fitted)


@pytest.mark.parametrize(
    ("values", "kind", "dtype", "suspect"),
    [
        (list(range(200)), "numeric", "int64", True),
        (np.random.default_rng(0).permutation(200) + 10**9, "numeric", "int64", True),
        ([*range(199), 500], "numeric", "int64", False),
        (np.arange(200.0), "numeric", "float64", False),
        (list(range(99)), "numeric", "int64", False),
        ([10**400, *range(199)], "numeric", "int64", False),
        ([f"u{i}" for i in range(200)], "categorical", "", True),
        ([f"u{i // 2}" for i in range(200)], "categorical", "", False),
        ([f"u{i}" for i in range(101)] + ["u"] * 99, "categorical", "", True),
        ([None] * 150 + [f"u{i}" for i in range(50)], "categorical", "", False),
    ],
)
def test_what_looks_like_an_id(values, kind, dtype, suspect):
    """Row numbers in any order, and texts of which most rows have one of their own, look like ids; numbers do not."""
    data = Column(values, kind, dtype)
    if suspect:
        with pytest.raises(TableError, match=r"column 'x' looks like an id.*`features=`"):
            refuse_ids("x", data, len(values))
    else:
        refuse_ids("x", data, len(values))
