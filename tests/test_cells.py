"""Cells: a total map from whatever comes to one index, exact where values are few, bounded where they are many."""

from __future__ import annotations

import decimal
import fractions
import math
import pickle
from typing import NamedTuple

import numpy as np
import pytest
from scipy import stats

from modelwatch import kernels
from modelwatch._types import ABSENT
from modelwatch.cells import MOST, CategoricalCells, NumericCells
from modelwatch.files import ReferenceProfile
from modelwatch.values import OTHER, RARE, category, hidden

hypothesis = pytest.importorskip("hypothesis")
pandas = pytest.importorskip("pandas")
st = hypothesis.strategies

many = hypothesis.settings(max_examples=150, deadline=None, derandomize=True)
LARGEST = np.finfo(np.float64).max


class Raising:
    """Raises whatever it is asked."""

    def __float__(self):
        raise RuntimeError("float")

    def __eq__(self, other):
        raise RuntimeError("eq")

    def __hash__(self):
        raise RuntimeError("hash")

    def __str__(self):
        raise RuntimeError("str")

    __repr__ = __str__


class Posing:
    """Has the hash of a category, and raises when it is compared with it."""

    def __hash__(self):
        return hash("red")

    def __eq__(self, other):
        raise ZeroDivisionError

    def __str__(self):
        return "posing"


class Faceless:
    """Does not even tell what it is."""

    __class__ = property(lambda self: 1 / 0)


class Unhashable(str):
    """A text that is no key."""

    __hash__ = None

    def __len__(self):
        raise RuntimeError("len")


NASTY = [
    None, ABSENT, math.nan, math.inf, -math.inf, True, False, 0, -0.0, 1, 2.5, 5e-324, LARGEST, -LARGEST,
    pandas.NA, pandas.NaT, np.datetime64("NaT", "s"), np.datetime64("2020-01-01"), np.timedelta64(1, "s"),
    decimal.Decimal(3), decimal.Decimal("NaN"), decimal.Decimal("sNaN"), decimal.Decimal("-Infinity"),
    decimal.Decimal("1e1000000"), fractions.Fraction(1, 3), 10**400, -(10**400), 10**5000, 2**63, 1j, np.complex128(1),
    np.float16(1), np.float32(0.1), np.float64(2), np.longdouble(3), np.int8(1), np.uint64(2**64 - 1), np.bool_(True),
    np.str_("red"), "", "red", "1", "nan", "\ud800", "\x00", "x" * 5000, b"red", bytearray(b"1"), [1], (1, 2), {}, {1},
    np.array(1.0), np.array([1, 2]), np.array([]), int, len, object(),
    Raising(), Posing(), Faceless(), Unhashable("red"),
]  # fmt: skip


class Nasty(NamedTuple):
    """One of NASTY by its number, for hypothesis would compare and print the values themselves."""

    at: int


def real(value):
    return NASTY[value.at] if type(value) is Nasty else value


anything = st.one_of(
    st.sampled_from([Nasty(i) for i in range(len(NASTY))]),
    st.floats(),
    st.integers(),
    st.text(max_size=5),
    st.decimals(),
    st.fractions(),
    st.binary(max_size=3),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=1), st.none(), max_size=1),
)
NUMERIC = [
    NumericCells([1, np.nextafter(1, 2), 2, np.nextafter(2, 3)], None),
    NumericCells.fit(np.random.default_rng(0).normal(size=5_000)),
    NumericCells.fit(np.float64(np.float32(np.random.default_rng(0).normal(size=900))), "float32"),
]
CATEGORICAL = [CategoricalCells(["1", "red"], ["3", "true"]), CategoricalCells([hidden("red")], hashed=True)]


def columns_of(values):
    yield values
    column = np.empty(len(values), dtype=object)
    column[:] = values
    yield column


class TestTotal:
    @pytest.mark.parametrize("cells", [*NUMERIC, *CATEGORICAL])
    @hypothesis.given(values=st.lists(anything, max_size=12))
    @hypothesis.example(values=[Nasty(i) for i in range(len(NASTY))])
    @many
    def test_any_object_has_one_cell(self, cells, values):
        """Whatever stands in a column, as list or array, each value gets one index in range, alone or in company."""
        values = [real(value) for value in values]
        for column in columns_of(values):
            found = cells.index(column)
            assert cells.tally(column).tolist() == np.bincount(found, minlength=cells.size).tolist()
            assert found.shape == (len(values),)
            assert found.dtype == np.intp
            assert ((found >= 0) & (found < cells.size)).all()
        alone = [int(cells.index([value])[0]) for value in values]
        assert found.tolist() == alone

    @pytest.mark.parametrize("cells", NUMERIC)
    @hypothesis.given(values=st.lists(st.floats(), min_size=1))
    @many
    def test_a_number_lies_in_its_cell(self, cells, values):
        """The cell of a number begins at or below it and ends above it; NaN is missing, infinities are outermost."""
        numbers = np.array(values, dtype=np.float64)
        if cells.dtype == "float32":
            with np.errstate(over="ignore"):
                numbers = numbers.astype(np.float32).astype(np.float64)
        upper = np.append(cells.lower[1:], math.inf)
        for number, cell in zip(numbers, cells.index(values), strict=True):
            if np.isnan(number):
                assert cell == cells.missing
            elif np.isinf(number):
                assert cell == (0 if number < 0 else cells.values - 1)
            else:
                assert 0 < cell < cells.values - 1
                assert cells.lower[cell] <= number < upper[cell] or (number == LARGEST and cell == cells.values - 2)

    @pytest.mark.parametrize("kind", ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?", "g", "O"])
    def test_every_dtype_of_numbers_is_read_alike(self, kind):
        """A column's dtype makes no difference to where a number lies."""
        cells = NumericCells([0, np.nextafter(0, 1), 1, np.nextafter(1, 2)], None)
        assert cells.index(np.array([0, 1, 1], dtype=kind)).tolist() == cells.index([0, 1, True]).tolist() == [2, 4, 4]

    def test_what_is_missing_and_what_is_of_the_wrong_type(self):
        """None, absent keys and everything that is not equal to itself are missing; the rest is of the wrong type."""
        cells = NUMERIC[0]
        missing = [None, ABSENT, math.nan, pandas.NA, pandas.NaT, np.datetime64("NaT", "s"), decimal.Decimal("NaN")]
        assert set(cells.index(missing)) == {cells.missing}
        wrong = ["1", b"1", "nan", "", [1], {}, 10**400, 1j, np.complex64(1), np.array([1.0, 2.0]), Raising(), int]
        wrong += [decimal.Decimal("sNaN"), np.datetime64("2020"), object()]
        assert set(cells.index(wrong)) == {cells.wrong_type}
        assert (
            cells.index([True, np.bool_(1), decimal.Decimal(1), fractions.Fraction(1), np.int8(1)]).tolist() == [2] * 5
        )

    def test_categories_that_are_missing_or_none(self):
        """A category is missing when its value is, of the wrong type when it has no text, else unseen."""
        cells = CATEGORICAL[0]
        assert set(cells.index([None, ABSENT, math.nan, pandas.NA, pandas.NaT])) == {cells.missing}
        assert set(cells.index([[1], (), {}, set(), np.array(["red"]), Raising(), len, 10**5000])) == {cells.wrong_type}
        assert set(cells.index(["blue", "", "_rare", "_other", 2, math.inf, Posing()])) == {cells.unseen}

    def test_cells_can_be_pickled(self):
        """Cells go to another process and find the same indices there."""
        for cells in (*NUMERIC, *CATEGORICAL):
            values = [0.5, "red", None, 1]
            assert pickle.loads(pickle.dumps(cells)).index(values).tolist() == cells.index(values).tolist()


class TestNumeric:
    def test_numbers_are_rounded_as_the_training_column_was(self):
        """0.1 from JSON is the float32 0.1 that the model was trained on, which without rounding is another value."""
        for dtype, kind in (("float32", np.float32), ("float16", np.float16)):
            at = np.float64(kind(0.1))
            cells = NumericCells.fit(np.array([at, 2.0]), dtype)
            assert cells.index([0.1]).tolist() == cells.index([at]).tolist() == [2]
            assert cells.index([1e300]).tolist() == [
                cells.values - 1
            ]  # beyond float32: infinite there, without a warning
        assert NumericCells.fit(np.array([np.float64(np.float32(0.1)), 2.0])).index([0.1]).tolist() != [2]

    def test_a_value_of_which_there_is_much_has_a_cell_of_its_own(self):
        """A value with at least a thousandth of the rows shares its cell with no other number."""
        rng = np.random.default_rng(1)
        column = np.concatenate([rng.normal(size=20_000), np.zeros(5_000), np.full(30, 0.123)])
        cells = NumericCells.fit(column)
        for atom in (0.0, 0.123):
            cell = int(cells.index([atom])[0])
            assert cells.points[cell]
            assert cells.index([np.nextafter(atom, -9), np.nextafter(atom, 9)]).tolist() == [cell - 1, cell + 1]

    @pytest.mark.parametrize("distinct", [1, 2, 19, 20, 21, 499, 500, 501, 900, 5_000])
    def test_there_are_never_too_many_cells(self, distinct):
        """At most 1,024 cells, whatever the column; up to 500 distinct values each has one of its own."""
        rng = np.random.default_rng(distinct)
        values = np.unique(rng.normal(size=distinct))
        cells = NumericCells.fit(np.concatenate([values, rng.choice(values, 3 * distinct)]))
        assert cells.size <= MOST
        assert cells.index([0.0, "x"]).max() < MOST
        if distinct <= 500:
            assert cells.points[cells.index(values)].all()
            assert len(set(cells.index(values))) == values.size
        elif distinct >= 5_000:
            counts = np.bincount(cells.index(values), minlength=cells.size)
            assert counts.max() <= 1 + values.size / 1_000 * 2
            assert cells.size > 900

    @pytest.mark.parametrize("seed", range(8))
    def test_bins_are_deciles_counted_independently(self, seed):
        """Bins are unions of cells, and count what counting between the reference's deciles counts."""
        rng = np.random.default_rng(seed)
        column = [
            rng.normal(size=3_000),
            rng.lognormal(size=3_000),
            np.where(rng.random(3_000) < 0.6, 0, rng.normal(size=3_000)),
            rng.integers(0, 400, 3_000),
        ][seed % 4].astype(np.float64)
        live = np.concatenate(
            [rng.permutation(column)[:500], rng.normal(0, 9, 500), [math.inf, -math.inf], column.max(keepdims=True)]
        )
        cells = NumericCells.fit(column)
        edges = np.unique(np.quantile(column, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]))
        assert cells.edges.tolist() == edges.tolist()
        for values in (column, live):
            want = [
                int(((values >= low) & (values < high)).sum())
                for low, high in zip([-math.inf, *edges], [*edges, math.inf], strict=True)
            ]
            want[-1] += int((values == math.inf).sum())
            assert np.bincount(cells.bin_of[cells.index(values)], minlength=len(cells.bins)).tolist() == want
        assert (np.diff(cells.bin_of) >= 0).all()  # neighbours, in order
        assert cells.bins == tuple(f"{i:02}" for i in range(edges.size + 1))
        assert cells.bounds[:-1].tolist() == edges.tolist()
        assert cells.bounds[-1] == column.max()

    def test_few_values_have_a_bin_each(self):
        """Up to 20 distinct values: a bin for each and `_other` for all else, infinities too."""
        values = np.arange(20.0)
        cells = NumericCells.fit(np.repeat(values, 5))
        assert cells.edges is None
        assert cells.bins == (*(f"{i:02}" for i in range(20)), OTHER)
        assert cells.bin_of[cells.index(values)].tolist() == list(range(20))
        others = [-1, 0.5, 20, np.nextafter(3, 4), math.inf, -math.inf]
        assert set(cells.bin_of[cells.index(others)]) == {20}
        assert cells.bounds[:-1].tolist() == values.tolist()
        assert NumericCells.fit(np.arange(21.0)).edges is not None

    def test_a_constant_column_tells_when_it_moves(self):
        """A constant has one bin; whatever else comes lies in `_other`."""
        cells = NumericCells.fit(np.full(300, 7.0))
        assert cells.bins == ("00", OTHER)
        assert cells.bin_of[cells.index([7.0, np.nextafter(7, 8), 0, -math.inf])].tolist() == [0, 1, 1, 1]

    @pytest.mark.parametrize(
        "column",
        [
            np.linspace(-1.7, 1.7, 2_000) * 1e308,
            np.array([-1.7e308, 1.7e308] * 20),
            np.outer([-1.7e308, 1.7e308], 1 - np.arange(15) / 1_000).ravel(),
            np.append(np.full(50, LARGEST), 1.0),
            np.append(np.arange(600.0), [LARGEST, -LARGEST, math.inf, math.nan]),
            np.arange(-700, 700) * 5e-324,
            2.0**53 + 4 * np.arange(20),
        ],
        ids=["huge", "two huge", "two huge groups", "largest", "largest beside others", "tiny", "two floats apart"],
    )
    def test_cells_of_extreme_numbers(self, column):
        """Numbers at the ends of what floats can hold make cells like all others, without a warning."""
        cells = NumericCells.fit(column)
        assert (cells.cuts[1:] > cells.cuts[:-1]).all()
        assert np.isfinite(cells.cuts).all()
        assert cells.size <= MOST
        found = cells.index(column)
        order = np.argsort(column[~np.isnan(column)])
        assert (found[~np.isnan(column)][order][1:] >= found[~np.isnan(column)][order][:-1]).all()
        means = cells.means()
        assert np.isfinite(means).all()
        assert (means[1:] >= means[:-1]).all()

    def test_means_stand_in_their_cells(self):
        """The value of a cell lies in it, never falls, and is the stored mean where there is one."""
        rng = np.random.default_rng(3)
        column = rng.normal(size=4_000)
        cells = NumericCells.fit(column)
        found = cells.index(column)
        sums, sizes = (np.bincount(found, weights=w, minlength=cells.values) for w in (column, np.ones(column.size)))
        stored = np.divide(sums, sizes, out=np.full(cells.values, np.nan), where=sizes > 0)
        for means in (cells.means(stored), cells.means()):
            inner = slice(2, cells.values - 2)
            assert (means[inner] >= cells.lower[inner]).all()
            assert (means[inner] <= cells.lower[3 : cells.values - 1]).all()
            assert (np.diff(means) >= 0).all()
        assert np.allclose(cells.means(stored)[sizes > 0], stored[sizes > 0], rtol=0, atol=1e-15)


def sample(kind, size, rng):
    """Data of a kind, that is hard on KS."""
    normal = rng.normal(size=size)
    return {
        "few values": lambda: rng.integers(0, 7, size).astype(float),
        "zero-inflated": lambda: np.where(rng.random(size) < 0.5, 0.0, rng.integers(1, 300, size) / 7),
        "heavy ties": lambda: np.round(normal, 1),
        "normal": lambda: normal,
        "lognormal": lambda: np.exp(normal),
        "zero-inflated normal": lambda: np.where(rng.random(size) < 0.3, 0.0, normal),
        "missing and infinite": lambda: np.where(
            rng.random(size) < 0.1, rng.choice([np.nan, np.inf, -np.inf], size), normal
        ),
    }[kind]()


def exact_and_ours(kind, seed, shift):
    rng = np.random.default_rng(seed)
    reference, window = sample(kind, 3_000, rng), sample(kind, 700, rng)
    if shift:
        window = np.where(rng.random(700) < 0.3, np.quantile(reference[np.isfinite(reference)], 0.8), window)
    profile = ReferenceProfile.fit({"x": reference}, features=["x"])
    counts = profile.layout.in_order(profile.count({"x": window}))
    ours = kernels.ks_by_feature(profile.in_order, counts, profile.layout.ordered)[0]
    there = [values[~np.isnan(values)] for values in (reference, window)]
    return stats.ks_2samp(*there, method="asymp").statistic, ours, profile.ks_error[0]


class TestKolmogorovSmirnov:
    @pytest.mark.parametrize("seed", range(20))
    @pytest.mark.parametrize("kind", ["few values", "zero-inflated", "heavy ties"])
    def test_is_exact_where_values_are_few(self, kind, seed):
        """Up to 500 distinct values KS from counts is scipy's KS of the raw data, to the last digits."""
        exact, ours, error = exact_and_ours(kind, seed, shift=seed % 2)
        assert error == 0
        assert ours == pytest.approx(exact, rel=0, abs=1e-14)

    @pytest.mark.parametrize("seed", range(20))
    @pytest.mark.parametrize("kind", ["normal", "lognormal", "zero-inflated normal", "missing and infinite"])
    def test_is_within_the_published_bound(self, kind, seed):
        """Above 500 distinct values it is too small by at most the published bound, which is a few thousandths."""
        exact, ours, error = exact_and_ours(kind, seed, shift=seed % 2)
        assert 0 < error <= 0.0025
        assert -1e-12 <= exact - ours <= error + 1e-12


class TestCategorical:
    @pytest.mark.parametrize(
        ("values", "text"),
        [
            ([True, np.True_], "true"),
            ([False], "false"),
            ([3, 3.0, np.int8(3), np.float32(3), decimal.Decimal("3.00"), fractions.Fraction(3), "3", b"3"], "3"),
            ([-0.0, 0, 0.0], "0"),
            ([0.5, np.float64(0.5), "0.5"], "0.5"),
            ([math.inf, "inf"], "inf"),
            ([10**20, 1e20], str(10**20)),
            ([np.str_("red"), "red", Unhashable("red")], "red"),
        ],
    )
    def test_one_text_however_it_is_typed(self, values, text):
        """Booleans, whole numbers and texts of one category have one text, so JSON and data frames agree."""
        assert [category(value) for value in values] == [text] * len(values)
        cells = CategoricalCells(["another", text])
        assert set(cells.index(values)) == {1}

    @hypothesis.given(value=anything)
    @many
    def test_a_text_can_be_printed_and_is_short(self, value):
        """The text of a category is valid UTF-8 of bounded length, and a long one still tells two values apart."""
        text = category(real(value))
        if text is not None:
            assert type(text) is str
            assert len(text) <= 217 * 6  # escapes of what is not printable
            text.encode()
        assert category("x" * 300) != category("x" * 300 + "y")

    def test_common_categories_have_a_bin_each(self):
        """Those with enough rows have bins, the commonest first if there are too many; the known rest is `_rare`."""
        column = ["a"] * 30 + ["b"] * 10 + ["c"] * 9 + [None] * 50 + ["d"] * 20
        cells = CategoricalCells.fit(column)
        assert cells.bins == ("a", "b", "d", RARE, OTHER)
        assert cells.rare == ("c",)
        assert cells.index(["a", "b", "d", "c", "e"]).tolist() == [0, 1, 2, 3, 4]
        assert CategoricalCells.fit(column, most=1).bins == ("a", RARE, OTHER)
        assert CategoricalCells.fit(column, most=2).bins == ("a", "d", RARE, OTHER)
        assert CategoricalCells.fit(column, min_rows=9).bins == ("a", "b", "c", "d", RARE, OTHER)
        assert CategoricalCells.fit(column, most=0).bins == (RARE, OTHER)

    def test_ties_do_not_depend_on_the_order_of_rows(self):
        """The same rows in another order make the same cells."""
        column = [str(i % 70) for i in range(1_400)]
        assert CategoricalCells.fit(column).to_dict() == CategoricalCells.fit(column[::-1]).to_dict()

    def test_own_names_of_bins_are_no_way_in(self):
        """A category that is called like a bin of ours has one of its own, of another name."""
        cells = CategoricalCells.fit(["a"] * 10 + ["_other"] * 10 + ["_rare"] * 10 + ["_missing"] * 10)
        assert len(set(cells.index(["a", "_other", "_rare", "_missing", "new"]))) == 5
        assert len(set(cells.bins)) == len(cells.bins) == 6
        assert "_missing" not in cells.bins

    def test_hashed_categories_are_found_and_not_named(self):
        """Hashed categories count as their names would, and no name can be read anywhere."""
        column = ["secret-one"] * 20 + ["secret-two"] * 20 + ["secret-rare"] * 2
        plain, cells = CategoricalCells.fit(column), CategoricalCells.fit(column, hashed=True)
        live = ["secret-one", "secret-two", "secret-rare", "secret-new", None, [1]]
        one, two, *rest = cells.index(live).tolist()
        assert {one, two} == {0, 1}
        assert rest == plain.index(live).tolist()[2:]
        assert "secret" not in repr((cells.to_dict(), cells.bins, vars(cells)))
        assert cells.index([hidden("secret-one")]).tolist() == [cells.unseen]  # the hash is no key either
