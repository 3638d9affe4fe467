"""The reference: fitted from any table, merged exactly, told by its hash, and the same after a trip through JSON."""

from __future__ import annotations

import datetime
import json
import pickle

import numpy as np
import pytest

from modelwatch.exceptions import CellsError, ConfigurationError, ReferenceFileError, TableError
from modelwatch.reference import Profile
from modelwatch.verdict import compare

hypothesis = pytest.importorskip("hypothesis")
pandas = pytest.importorskip("pandas")
polars = pytest.importorskip("polars")
pyarrow = pytest.importorskip("pyarrow")
st = hypothesis.strategies

MAKERS = {"dict": dict, "pandas": pandas.DataFrame, "polars": polars.DataFrame, "pyarrow": pyarrow.table}


def table(rows=2_000, seed=0, shift=0.0):
    rng = np.random.default_rng(seed)
    price = rng.lognormal(size=rows) + shift
    price[rng.random(rows) < 0.02] = np.nan
    return {
        "age": rng.integers(18, 90, rows),
        "price": price,
        "hour": rng.integers(0, 24, rows) + shift,
        "plan": rng.choice(["basic", "pro", "team"], rows).astype(object),
        "active": rng.random(rows) < 0.5,
        "score": rng.random(rows).astype(np.float32),
        "confidence": rng.random(rows),
        "label": rng.integers(0, 2, rows),
        "ts": np.arange(rows, dtype=np.float64) * 60,
    }


ROLES = {"prediction": "score", "confidence": "confidence", "target": "label", "time": "ts"}
TABLE = table()
PROFILE = Profile.fit(TABLE, **ROLES)


def both(a, b):
    return {name: np.concatenate([a[name], b[name]]) for name in a}


class TestFit:
    def test_every_column_that_has_no_role_is_a_feature(self):
        """Columns without a role are features in their order; prediction and confidence follow under their names."""
        assert PROFILE.names == ("age", "price", "hour", "plan", "active", "prediction", "confidence")
        assert PROFILE.inputs == ("age", "price", "hour", "plan", "active")
        assert [feature.column for feature in PROFILE.features[-2:]] == ["score", "confidence"]
        assert [feature.cells.kind for feature in PROFILE.features][3:5] == ["categorical", "categorical"]
        assert PROFILE.rows == 2_000
        assert PROFILE.target == "label"
        assert "2000 rows" in repr(PROFILE)

    @pytest.mark.parametrize("make", [MAKERS[name] for name in ("pandas", "polars", "pyarrow")])
    def test_the_same_from_every_library(self, make):
        """A dict of arrays, pandas, polars and pyarrow give the same JSON, and count alike."""
        profile = Profile.fit(make(TABLE), **ROLES)
        assert profile.to_json() == PROFILE.to_json()
        live = table(300, seed=1)
        assert PROFILE.count(make(live)).tolist() == PROFILE.count(live).tolist()

    def test_gaps_are_the_same_from_every_library(self):
        """None in a list, pandas.NA and null of polars and arrow are the same gap, in numbers and in texts."""
        columns = {
            "n": [1.5, None, 2.5, 3.5] * 50,
            "i": [1, None, 2, 3] * 50,
            "t": ["a", None, "b", "c"] * 50,
            "b": [True, None, False, True] * 50,
        }
        made = [make(columns) for make in MAKERS.values()]
        made.append(pandas.DataFrame(columns).convert_dtypes())
        texts = {Profile.fit(each).to_json() for each in made[:-1]}
        assert len(texts) == 1
        last = Profile.fit(made[-1])
        assert last.counts.tolist() == Profile.fit(columns).counts.tolist()

    def test_statistics_of_the_column(self):
        """Mean and standard deviation are those of the finite values, the counts those of all rows."""
        values = np.array([1.5, np.nan, np.inf, -np.inf, 2.5, 9.0] * 100)
        (feature,) = Profile.fit({"x": values}).features
        finite = values[np.isfinite(values)]
        assert feature.mean == pytest.approx(finite.mean(), rel=1e-12)
        assert feature.sd == pytest.approx(finite.std(), rel=1e-12)
        assert feature.counts.sum() == 600
        assert feature.counts[[0, -3, -2, -1]].tolist() == [100, 100, 100, 0]

    def test_what_is_no_number_in_a_training_column(self):
        """Numbers too large for a float are of the wrong type in the training data too, and stop nothing."""
        (feature,) = Profile.fit({"x": [1, 2, 10**400] * 100}).features
        assert feature.counts[feature.cells.wrong_type] == 100
        assert feature.mean == 1.5

    @pytest.mark.parametrize(
        "values",
        [
            np.linspace(-1.7, 1.7, 2_000) * 1e308,
            np.array([-1.7e308, 1.7e308] * 200),
            np.append(np.arange(900.0), [1.7976931348623157e308] * 9),
        ],
        ids=["huge", "two", "sentinels"],
    )
    def test_huge_numbers(self, values):
        """Numbers whose sums overflow can be profiled, merged, written and compared; what is unknown is None."""
        profile = Profile.fit({"x": values})
        assert Profile.from_json(profile.to_json()) == profile
        merged = profile + Profile.from_counts(profile, profile.counts)
        assert Profile.from_json(merged.to_json()) == merged
        report = compare(profile, profile.count({"x": values[:250]}))
        json.dumps(report.to_dict(), allow_nan=False)

    def test_chosen_columns(self):
        """`features=` chooses and orders columns; `categorical=` makes categories of numbers."""
        profile = Profile.fit(TABLE, features=["hour", "age"], categorical=["hour"])
        assert profile.names == ("hour", "age")
        assert [feature.cells.kind for feature in profile.features] == ["categorical", "numeric"]
        assert profile.features[0].cells.bins[:3] == ("0", "1", "10")

    def test_limits_of_categories(self):
        """How many rows make a category and how many categories there are can be set, within bounds."""
        columns = {"c": ["a"] * 30 + ["b"] * 20 + ["c"] * 5}
        assert Profile.fit(columns).features[0].cells.categories == ("a", "b")
        assert Profile.fit(columns, min_category_rows=5, max_categories=1).features[0].cells.categories == ("a",)
        for wrong in ({"min_category_rows": 0}, {"max_categories": -1}, {"max_categories": 5_000}):
            with pytest.raises(ConfigurationError, match=f"Expected {next(iter(wrong))} "):
                Profile.fit(columns, **wrong)

    def test_hashed_names_appear_nowhere(self):
        """Names of hashed categories are not in the file, the bins or the report, not even as rare ones."""
        columns = {"who": ["alice", "bob"] * 100 + ["mallory"] * 3, "x": np.arange(203.0) % 7}
        profile = Profile.fit(columns, hash_categories=["who"])
        report = compare(profile, profile.count({"who": ["alice", "zebulon"] * 150, "x": [1.0] * 300}))
        said = (
            profile.to_json()
            + str(report)
            + report.to_json()
            + report._repr_html_()
            + str(profile.features[0].cells.bins)
        )
        for name in ("alice", "bob", "mallory", "zebulon"):
            assert name not in said
        plain = Profile.fit(columns)
        assert sorted(plain.features[0].counts.tolist()) == sorted(profile.features[0].counts.tolist())

    def test_time_orders_the_rows_for_the_floors_only(self):
        """Rows in another order, with their times, make the same profile; floors follow the times."""
        rows = 4_000
        drifting = np.sin(np.arange(rows) / 300)
        order = np.random.default_rng(0).permutation(rows)
        columns = {"x": drifting, "ts": np.arange(rows)}
        straight, mixed = (
            Profile.fit(columns, time="ts"),
            Profile.fit({k: v[order] for k, v in columns.items()}, time="ts"),
        )
        assert mixed.features[0].floors == straight.features[0].floors
        untimed = Profile.fit({"x": drifting[order]})
        assert untimed.features[0].floors[0].distance < 0.2 < straight.features[0].floors[0].distance
        assert untimed.counts.tolist() == straight.counts.tolist()


class TestRefusals:
    @pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
    @pytest.mark.parametrize(
        ("columns", "options", "said"),
        [
            ({"x": [[1], [2]] * 50}, {}, "one value a row in column 'x', got a "),
            ({"x": [datetime.datetime(2020, 1, 1)] * 99}, {}, "Derive a number from it"),
            ({"x": [None] * 99}, {}, "at least one finite number"),
            ({"x": [float("inf")] * 99}, {}, "at least one finite number"),
            ({"id": list(range(500)), "x": [1.0] * 500}, {}, "column 'id' looks like an id"),
            ({"id": [f"u{i}" for i in range(500)]}, {}, "column 'id' looks like an id"),
            ({"prediction": [1.0, 2.0] * 50}, {}, "Expected no feature to be called 'prediction'"),
            ({"confidence": [1.0, 2.0] * 50, "x": [1.0] * 100}, {}, "Pass it as `confidence='confidence'`"),
            ({"age": [1.0] * 99}, {"features": ["aeg"]}, "Did you mean 'age'?"),
            ({"age": [1.0] * 99}, {"categorical": ["plan"]}, "Expected a column 'plan'"),
            ({"age": [1.0] * 99}, {"time": "agee"}, "Did you mean 'age'?"),
            ({"age": [1.0] * 99}, {"target": "zzz"}, "Check its name"),
            ({"age": [1.0] * 99}, {"hash_categories": ["zzz"]}, "Check its name"),
            ({"age": [1.0] * 99}, {"prediction": "zzz"}, "Check its name"),
            ({"age": [1.0] * 99}, {"features": []}, "at least one feature"),
            ({"age": []}, {}, "at least one row"),
            ({"": [1.0] * 99}, {}, "valid text of 1 to 300 characters"),
            ({"x" * 301: [1.0] * 99}, {}, "valid text of 1 to 300 characters"),
        ],
    )  # fmt: skip
    def test_columns_that_make_no_feature(self, make, columns, options, said):
        """Every column that can make no feature is refused by name, with what to do, whoever holds it."""
        with pytest.raises(TableError) as caught:
            Profile.fit(make(columns), **options)
        message = str(caught.value)
        assert message.startswith("Expected ")
        assert said in message
        assert message[-1] in ".?"

    def test_tables_that_are_none(self):
        """Ragged, empty and endless tables are refused."""
        with pytest.raises(TableError, match=r"Expected columns of one length, got \{'a': 2, 'b': 3\}"):
            Profile.fit({"a": [1, 2], "b": [1, 2, 3]})
        with pytest.raises(TableError, match="at least one feature"):
            Profile.fit({})
        with pytest.raises(TableError, match="at most 2000 features, got 2001"):
            Profile.fit({f"x{i}": [1.0] for i in range(2_001)})
        with pytest.raises(TableError, match="at most 10000 categories in column 'x'"):
            Profile.fit({"x": [str(i) for i in range(10_001)] * 2}, features=["x"])
        with pytest.raises(TableError, match="Expected 99 times"):
            Profile.fit({"x": [1.0] * 99, "ts": [1]}, time="ts")

    def test_a_name_in_features_overrules_the_suspicion_of_an_id(self):
        """What looks like an id is profiled when it is asked for by name."""
        assert Profile.fit({"n": list(range(500))}, features=["n"]).names == ("n",)
        assert Profile.fit({"n": list(range(99))}).names == ("n",)  # too few rows to suspect anything
        assert Profile.fit({"n": np.random.default_rng(0).normal(size=500)}).names == ("n",)  # all distinct, but no id

    def test_features_that_are_not_there(self):
        """Asking for an unknown feature is answered with the nearest name."""
        with pytest.raises(CellsError, match="Did you mean 'price'"):
            PROFILE.feature("prize")
        with pytest.raises(TableError, match="Expected a column 'age'"):
            PROFILE.count({"price": [1.0]})


class TestCount:
    def test_counts_add_up_whatever_comes(self):
        """Per feature every row is counted, also of other types than the training data's."""
        live = {
            "age": ["x", None, 5.5],
            "price": [1, 2, [3]],
            "hour": [{}, 1, 2],
            "plan": [1, None, "pro"],
            "active": [1, "true", 0],
        }
        counts = PROFILE.count(live | {"unknown": [1, 2, 3]})
        sums = [int(counts[at].sum()) for at in PROFILE.layout.slices()]
        assert sums == [3, 3, 3, 3, 3, 0, 0]

    def test_the_reference_counts_itself(self):
        """Counting the training data gives the profile's own counts, which cannot be written to."""
        assert PROFILE.count(TABLE).tolist() == PROFILE.counts.tolist()
        with pytest.raises(ValueError, match="read-only"):
            PROFILE.counts[0] = 1

    def test_counts_of_parts_add_up(self):
        """Counts of two tables added are the counts of both together: exact, in any order."""
        a, b = table(700, seed=1), table(400, seed=2, shift=3)
        assert (PROFILE.count(a) + PROFILE.count(b)).tolist() == PROFILE.count(both(a, b)).tolist()


small = st.one_of(st.none(), st.integers(-3, 30), st.floats(), st.sampled_from(["a", "b", True]))


class TestMerge:
    def test_is_exact(self):
        """The sum of two profiles counts what the profile of both tables counts."""
        a, b = table(1_900, seed=1), table(1_700, seed=2, shift=4)
        one, two = Profile.fit(a, **ROLES, cells=PROFILE), Profile.fit(b, **ROLES, cells=PROFILE)
        merged, whole = one + two, Profile.fit(both(a, b), **ROLES, cells=PROFILE)
        assert merged.counts.tolist() == whole.counts.tolist()
        assert merged.rows == whole.rows == 3_600
        assert merged.hash == whole.hash == PROFILE.hash
        for got, want in zip(merged.features, whole.features, strict=True):
            assert got.mean == pytest.approx(want.mean, rel=1e-12, nan_ok=True)
            assert got.sd == pytest.approx(want.sd, rel=1e-12, nan_ok=True)
            assert (got.means is None) == (want.means is None)
            if got.means is not None:
                there = want.counts[: want.cells.values] > 0
                assert got.means[there] == pytest.approx(want.means[there], rel=1e-12)

    def test_is_commutative_and_leaves_its_arguments_alone(self):
        """a + b is b + a in every byte, and neither is touched, though one lies on points and the other between."""
        with_floors = [Profile.fit(table(1_900, seed=seed), **ROLES, cells=PROFILE) for seed in (1, 2)]
        assert (with_floors[0] + with_floors[1]).to_json() == (with_floors[1] + with_floors[0]).to_json()
        one = Profile.fit({"x": [1.0, 2.0, 4.0] * 100})
        for values in ([1.0, 2.0], [1.25, 2.0, 9.0], [np.nan, np.inf], [0.5]):
            two = Profile.fit({"x": values * 50}, cells=one)
            before = one.to_json(), two.to_json()
            assert (one + two).to_json() == (two + one).to_json()
            assert (one.to_json(), two.to_json()) == before
        whole = Profile.fit({"x": [1.0, 2.0, 4.0] * 100 + [1.25, 1.75, 2.0, 9.0] * 50}, cells=one)
        merged = one + Profile.fit({"x": [1.25, 1.75, 2.0, 9.0] * 50}, cells=one)
        assert merged.points == pytest.approx(whole.points, rel=1e-12)

    @hypothesis.given(a=st.lists(small, min_size=1, max_size=30), b=st.lists(small, min_size=1, max_size=30))
    @hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
    def test_law_of_merging(self, a, b):
        """For any two columns: counts of the sum are the sums of counts, in either order, without touching either."""
        for base in (Profile.fit({"x": [0.0, 1.0, 2.0] * 10}), Profile.fit({"x": ["a", "b", "true"] * 10})):
            one, two, whole = (Profile.from_counts(base, base.count({"x": column})) for column in (a, b, a + b))
            before = one.to_json(), two.to_json()
            merged = one + two
            assert merged.counts.tolist() == (two + one).counts.tolist() == whole.counts.tolist()
            assert merged.counts.sum() == len(a) + len(b) == merged.rows
            assert (one.to_json(), two.to_json()) == before

    def test_needs_the_same_cells(self):
        """Profiles of other cells are refused with the remedy; what is no profile is none."""
        with pytest.raises(CellsError, match="Fit the second with `cells=first`"):
            PROFILE + Profile.fit(table(500, seed=1), **ROLES)
        with pytest.raises(TypeError):
            PROFILE + 1

    def test_cells_of_another_reference_take_any_values(self):
        """`cells=` counts values of another kind than the cells were made of as what they are: of the wrong type."""
        other = Profile.fit({"age": ["x", "y"] * 50, "plan": [1, 2] * 50}, features=["age", "plan"], cells=PROFILE)
        age, plan = other.features
        assert age.counts[age.cells.wrong_type] == 100
        assert plan.counts[plan.cells.unseen] == 100
        assert np.isnan(age.mean)


class TestHash:
    def test_tells_cells_and_not_counts(self):
        """Other counts over the same cells have the same hash; other cells have another."""
        again = Profile.fit(table(900, seed=5), **ROLES, cells=PROFILE)
        assert again.hash == PROFILE.hash
        assert again != PROFILE
        assert PROFILE.id == PROFILE.hash[:8]
        assert len(PROFILE.hash) == 64
        assert Profile.fit(table(seed=3), **ROLES).hash != PROFILE.hash

    @pytest.mark.parametrize(
        "other",
        [
            {"y": [1.0, 2.0, 3.0]},
            {"x": [1.0, 2.0, 3.5]},
            {"x": np.array([1, 2, 3], dtype=np.float32)},
            {"x": ["1", "2", "3"]},
        ],
        ids=["name", "cut", "dtype", "kind"],
    )
    def test_tells_every_difference_of_cells(self, other):
        """Another name, cut, dtype or kind is another hash: their bins must never be added up."""
        one = Profile.fit({"x": [1.0, 2.0, 3.0] * 20})
        assert Profile.fit({name: np.tile(values, 20) for name, values in other.items()}).hash != one.hash


class TestJson:
    def test_round_trip(self):
        """A profile from its JSON is the same profile, in every byte, and compares alike."""
        again = Profile.from_json(PROFILE.to_json())
        assert again == PROFILE
        assert again.to_json() == PROFILE.to_json()
        assert again.hash == PROFILE.hash
        assert hash(again) == hash(PROFILE)
        counts = PROFILE.count(table(500, seed=9, shift=1))
        assert compare(again, counts).to_dict() == compare(PROFILE, counts).to_dict()

    @pytest.mark.parametrize(
        "columns",
        [
            {"x": [5e-324, 0.0, -0.0] * 40},
            {"x": (2.0**53 + 4 * np.arange(20)).tolist() * 10},
            {"x": ["", "a", "\ud800", "\x00", "Größe 🌡", "_other", "_rare", "x" * 5_000] * 15},
            {"Größe 🌡\n\"'\\": [1.0, 2.0] * 40},
            {"x": [None, None, None, "a"] * 40},
            {"x": [1.0]},
            {"x": [True]},
        ],
    )
    def test_round_trip_of_odd_profiles(self, columns):
        """Whatever can be fitted can be written and read again."""
        profile = Profile.fit(columns)
        assert Profile.from_json(profile.to_json()) == profile

    def test_round_trip_of_counts_without_a_prediction(self):
        """A profile made of counts of a table that lacked the prediction is read again, alone and merged."""
        live = {name: values for name, values in table(300, seed=2).items() if name in PROFILE.inputs}
        partial = Profile.from_counts(PROFILE, PROFILE.count(live))
        assert partial.rows_of_features.tolist() == [300] * 5 + [0] * 2
        for profile in (partial, partial + PROFILE, partial + partial):
            assert Profile.from_json(profile.to_json()) == profile

    def test_holds_no_rows(self):
        """Nothing of a row can be read from the file: what is in it are cuts, means of cells and counts."""
        assert set(json.loads(PROFILE.to_json())["features"][0]) == {
            "name", "column", "kind", "cuts", "edges", "dtype", "counts", "floors", "means", "mean", "sd",
        }  # fmt: skip
        assert len(PROFILE.to_json()) < 40_000 * len(PROFILE.names)

    def test_tampering_is_noticed(self):
        """A change that fits the schema is still noticed by the checksum."""
        content = json.loads(PROFILE.to_json())
        counts = content["features"][0]["counts"]
        i = int(np.argmax(counts))
        counts[i], counts[i + 1] = counts[i] - 1, counts[i + 1] + 1
        with pytest.raises(ReferenceFileError, match="`checksum` does not fit its content"):
            Profile.from_json(json.dumps(content), source="it")

    def test_can_be_pickled(self):
        """A profile goes to another process and is the same there."""
        assert pickle.loads(pickle.dumps(PROFILE)) == PROFILE


def test_a_window_becomes_a_reference():
    """A profile from counts has them as its own, with the mean and spread that its cells tell."""
    live = table(1_000, seed=4, shift=2)
    profile = Profile.from_counts(PROFILE, PROFILE.count(live))
    assert profile.hash == PROFILE.hash
    assert profile.rows == 1_000
    assert profile.features[2].mean == pytest.approx(np.clip(live["hour"], 0, 23).mean(), rel=1e-9)
    assert profile.features[0].sd == pytest.approx(live["age"].std(), rel=1e-9)
    assert compare(profile, PROFILE.count(live)).drifted == []
    assert profile.features[0].floors == PROFILE.features[0].floors
