"""The verdict: every number from raw values by other means, and drift only where it is both significant and large."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import spatial, special, stats

from modelwatch.exceptions import CountsError
from modelwatch.files import ReferenceProfile
from modelwatch.settings import FeatureRule
from modelwatch.significance import benjamini_hochberg
from modelwatch.verdict import compare

hypothesis = pytest.importorskip("hypothesis")
st = hypothesis.strategies


def close(want):
    return pytest.approx(want, rel=1e-12, abs=1e-12)


def raw(rows, seed, shift=0.0):
    rng = np.random.default_rng(seed)
    spend = np.exp(rng.normal(size=rows)) + shift
    spend[rng.random(rows) < 0.05] = np.nan
    plan = rng.choice(["a", "b", "c", "d"], rows, p=[0.5, 0.3, 0.195, 0.005]).astype(object)
    if shift:
        plan[rng.random(rows) < 0.04] = "new"
        plan[rng.random(rows) < 0.02] = None
    return {
        "normal": rng.normal(shift / 3, 1, rows),
        "spend": spend,
        "ties": np.round(rng.normal(shift / 5, 1, rows), 1),
        "few": rng.integers(0, 4, rows) + (shift > 0) * (rng.random(rows) < 0.1) * 2,
        "constant": np.full(rows, 7.0),
        "plan": plan,
        "even": rng.random(rows) < 0.5,
    }


REFERENCE = raw(4_000, 0)
PROFILE = ReferenceProfile.fit(REFERENCE)


def binned(reference, window):
    """Counts of raw values over values and `_other`, deciles, or categories and `_other`; without missing ones."""
    if isinstance(reference[0], str | bool | np.bool_):
        seen, n = np.unique([str(x) for x in reference if x is not None], return_counts=True)
        assert n.min() >= 10  # no rare ones here
        texts = [[str(x) for x in side if x is not None] for side in (reference, window)]
        return [[sum(x == c for x in side) for c in seen] + [sum(x not in seen for x in side)] for side in texts]
    sides = [np.asarray(side, dtype=float) for side in (reference, window)]
    sides = [side[~np.isnan(side)] for side in sides]
    values = np.unique(sides[0])
    if values.size <= 20:
        return [[int((side == v).sum()) for v in values] + [int((~np.isin(side, values)).sum())] for side in sides]
    edges = np.unique(np.quantile(sides[0], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]))
    lows, highs = [-np.inf, *edges], [*edges, np.inf]
    return [
        [int(((side >= low) & (side < high)).sum()) for low, high in zip(lows, highs, strict=True)] for side in sides
    ]


def missing(column):
    return sum(x is None or (isinstance(x, float) and math.isnan(x)) for x in column)


@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", list(REFERENCE))
def test_statistics_from_raw_values(name, shift):
    """Every statistic of a report is what numpy and scipy compute from the raw values, to 1e-12."""
    window = raw(1_500, 1, shift)
    got = compare(PROFILE, PROFILE.count(window))[name]
    r, c = (np.array(side, dtype=float) for side in binned(REFERENCE[name], window[name]))
    m, n = r.sum(), c.sum()
    assert (got.n, got.m) == (n, m)
    u, bins = 1 / n + 1 / m, int((r + c > 0).sum())
    p, q = r / m, c / n
    clipped_p, clipped_q = np.maximum(p, 1e-6), np.maximum(q, 1e-6)
    used = r + c > 0
    assert got.psi == close(((clipped_q - clipped_p) * np.log(clipped_q / clipped_p)).sum())
    half_p, half_q = ((x[used] + 0.5) / (x[used] + 0.5).sum() for x in (r, c))
    smoothed = ((half_q - half_p) * np.log(half_q / half_p)).sum()
    assert got.psi_smoothed == close(smoothed)
    assert got.psi_debiased == close(max(0, smoothed - (bins - 1) * u))
    assert got.psi_critical == close(special.chdtri(bins - 1, 0.001) * u if bins > 1 else 0)
    assert got.js_divergence == close(spatial.distance.jensenshannon(p, q, base=2) ** 2)
    assert got.kl_divergence == close((clipped_q * np.log(clipped_q / clipped_p)).sum())
    assert got.hellinger == close(np.linalg.norm(np.sqrt(p) - np.sqrt(q)) / np.sqrt(2))
    assert got.total_variation == close(np.abs(p - q).sum() / 2)
    gone = [missing(side[name]) / len(side[name]) for side in (window, REFERENCE)]
    assert (got.missing_share, got.reference_missing_share) == (close(gone[0]), close(gone[1]))
    if name in {"plan", "even"}:
        assert got.chi_square_pvalue == close(stats.chi2_contingency([r[used], c[used]], correction=False).pvalue)
        assert got.other_share == close(c[-1] / n)
        assert got.ks_statistic is got.ks_pvalue is got.wasserstein is got.mean is None
        return
    sides = [np.asarray(side[name], dtype=float) for side in (REFERENCE, window)]
    sides = [side[~np.isnan(side)] for side in sides]
    exact = stats.ks_2samp(*sides, method="asymp").statistic
    assert -1e-12 <= exact - got.ks_statistic <= got.ks_error + 1e-12
    assert got.ks_error <= 0.0015
    root = np.sqrt(1 / u)
    assert got.ks_pvalue == close(special.kolmogorov((root + 0.12 + 0.11 / root) * got.ks_statistic))
    if name in {"few", "constant", "ties"}:  # each value has a cell, but new ones only a gap
        assert got.ks_error == 0
        assert got.ks_statistic == close(exact)
    assert got.chi_square_pvalue is got.other_share is None


@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", ["normal", "spend", "ties", "few"])
def test_wasserstein_and_mean_from_cell_means(name, shift):
    """Wasserstein and the mean are those of the rows with each at the reference's mean in its cell, over its spread."""
    window = raw(1_500, 2, shift)
    report = compare(PROFILE, PROFILE.count(window))[name]
    cells = PROFILE.feature(name).cells
    reference, live = (np.asarray(side[name], dtype=float) for side in (REFERENCE, window))
    reference, live = reference[~np.isnan(reference)], live[~np.isnan(live)]
    low, high = reference.min(), reference.max()
    at = cells.index(reference)

    def stands(values):
        for cell in cells.index(values):
            inside = reference[at == cell]
            below, above = cells.lower[cell], np.append(cells.lower, np.inf)[cell + 1]
            yield inside.mean() if inside.size else (np.clip(below, low, high) + np.clip(above, low, high)) / 2

    ours, theirs = np.array(list(stands(reference))), np.array(list(stands(live)))
    assert report.wasserstein == pytest.approx(stats.wasserstein_distance(ours, theirs) / reference.std(), rel=1e-9)
    assert report.mean == pytest.approx(theirs.mean(), rel=1e-9, abs=1e-9)
    assert report.reference_mean == close(reference.mean())
    assert abs(report.wasserstein - stats.wasserstein_distance(reference, live) / reference.std()) < 0.05 + shift


def one(values, live, rule=None, **options):
    """Report of one feature `x`, without calibrated floors: the rows of `values` are in no order."""
    profile = ReferenceProfile.fit({"x": values}, features=["x"])
    rules = {"x": FeatureRule(**{"floor": 0.05, "share_floor": 0.01} | (rule or {}))}
    return compare(profile, profile.count({"x": live}), features=rules, **options)["x"]


def shares(*parts):
    """A list in which each (value, rows) occurs."""
    return [value for value, rows in parts for _ in range(rows)]


class TestVerdict:
    def test_significant_alone_is_no_drift(self):
        """A difference that is certain but small is no drift; nor is one that is large but may be chance."""
        small = one(shares((0, 50_000), (1, 50_000)), shares((0, 48_000), (1, 52_000)))
        assert small.ks_pvalue < 1e-6
        assert (small.drifted, small.severity, small.verdict, small.reasons) == (False, 0, "ok", ())
        chance = one(shares((0, 150), (1, 150)), shares((0, 85), (1, 115)))
        assert chance.ks_statistic >= 0.05
        assert chance.ks_pvalue > 0.001
        assert chance.drifted is False
        both = one(shares((0, 500), (1, 500)), shares((0, 30_000), (1, 70_000)))
        assert both.drifted is True
        assert both.reasons == ("distribution",)

    def test_the_floor_itself_is_large(self):
        """A distance that equals the floor counts as large."""
        values, live = shares((0, 5_000), (1, 5_000)), shares((0, 3_750), (1, 6_250))
        assert one(values, live, {"floor": 0.125}).drifted
        assert not one(values, live, {"floor": np.nextafter(0.125, 1)}).drifted

    def test_one_family_of_all_tests(self):
        """Significant is what Benjamini-Hochberg believes of all tests of all features: less, the more are quiet."""
        columns = {f"x{i}": shares((0, 500), (1, 500)) for i in range(12)}
        profile = ReferenceProfile.fit(columns)
        live = columns | {"x0": shares((0, 421), (1, 579))}
        report = compare(profile, profile.count(live))
        p = report["x0"].ks_pvalue
        tests = 2 * 12  # distribution and missing; numbers have no unseen values
        for alpha, want in ((p * tests * 1.001, ["x0"]), (p * tests * 0.999, [])):
            assert compare(profile, profile.count(live), alpha=alpha, floor=0.01).drifted == want
        columns["plan"], live["plan"] = shares(("a", 500), ("b", 500)), shares(("a", 500), ("b", 500))
        profile = ReferenceProfile.fit(columns)
        for alpha, want in ((p * (tests + 3) * 1.001, ["x0"]), (p * (tests + 3) * 0.999, [])):
            assert compare(profile, profile.count(live), alpha=alpha, floor=0.01).drifted == want

    def test_muted_features_and_unknown_ones_are_no_family(self):
        """A muted feature, one that was never captured, and one with too few rows take no part in the family."""
        columns = {f"x{i}": shares((0, 500), (1, 500)) for i in range(3)}
        profile = ReferenceProfile.fit(columns)
        live = columns | {"x0": shares((0, 421), (1, 579))}
        counts = profile.count(live)
        p = compare(profile, counts)["x0"].ks_pvalue
        alpha = p * 2 * 1.001  # enough for one feature's two tests, not for two features'
        assert compare(profile, counts, alpha=alpha, floor=0.01).drifted == []
        quiet = {name: FeatureRule(alert=False) for name in ("x1", "x2")}
        assert compare(profile, counts, alpha=alpha, floor=0.01, features=quiet).drifted == ["x0"]
        assert compare(profile, counts, alpha=alpha, floor=0.01, captured=[True, False, False]).drifted == ["x0"]
        counts[profile.layout.starts[1] :] = 0
        assert compare(profile, counts, alpha=alpha, floor=0.01).drifted == ["x0"]

    def test_nothing_is_said_of_few_rows(self):
        """Below `min_rows` every statistic and verdict is None, never 0; from there on all are there."""
        values = shares((0, 500), (1, 500))
        for rows, min_rows in ((199, 200), (0, 200), (4, 5)):
            report = one(values, [1] * rows, min_rows=min_rows)
            assert report.n == rows
            known = {"psi", "psi_smoothed", "js_divergence", "ks_statistic", "wasserstein", "mean", "missing_share"}
            assert {getattr(report, name) for name in known | {"drifted", "severity"}} == {None}
            assert report.verdict == "waiting"
            assert report.reasons == ()
        report = one(values, [1] * 200)
        assert report.drifted is True
        assert report.psi > 1

    def test_muted_features_are_measured(self):
        """A muted feature has its statistics, and no verdict."""
        report = one(shares((0, 500), (1, 500)), [1] * 300, {"alert": False})
        assert (report.drifted, report.severity, report.alerting, report.verdict) == (None, None, False, "muted")
        assert report.ks_statistic == 0.5

    def test_what_was_never_captured_has_no_verdict(self):
        """A feature that never arrived is not 100 % missing: nothing is said of it."""
        report = one(shares((0, 500), (1, 500)), [None] * 300, captured=[False])
        assert (report.drifted, report.captured, report.missing_share, report.verdict) == (
            None,
            False,
            None,
            "not captured",
        )
        assert one(shares((0, 500), (1, 500)), [None] * 300).verdict == "major"

    def test_rules_of_a_feature(self):
        """A rule's floor replaces the calibrated one, its alpha is for its feature alone, as is its share floor."""
        rng = np.random.default_rng(0)
        wave = np.sin(np.arange(4_000) / 300) + rng.normal(scale=0.1, size=4_000)
        profile = ReferenceProfile.fit({"x": wave, "y": rng.normal(size=4_000)})
        counts = profile.count({"x": wave[:300], "y": rng.normal(0.25, 1, 300)})
        plain = compare(profile, counts)
        assert plain["x"].floor > 0.5
        assert plain["x"].drifted is False
        assert "x" in compare(profile, counts, features={"x": FeatureRule(floor=0.2)}).drifted
        assert compare(profile, counts, features={"x": FeatureRule(floor=0.2)})["x"].floor == 0.2
        p = plain["y"].ks_pvalue
        assert 1e-7 < p < 0.01
        strict = {"y": FeatureRule(floor=0, alpha=p * 1.001)}
        lax = {"y": FeatureRule(floor=0, alpha=min(p * 4.001, 0.9))}
        assert compare(profile, counts, alpha=1e-9, features=strict)["y"].drifted is False  # one of four tests
        assert compare(profile, counts, alpha=1e-9, features=lax)["y"].drifted is True
        gaps = [None] * 30 + [0.0] * 970
        live = [None] * 60 + [0.0] * 940
        assert one(gaps, live, alpha=0.1).reasons == ("missing",)
        assert one(gaps, live, {"share_floor": 0.04}, alpha=0.1).reasons == ()

    def test_calibrated_floors_only_raise(self):
        """The floor in force is the larger of the general and the calibrated one."""
        rng = np.random.default_rng(0)
        profile = ReferenceProfile.fit({"x": rng.normal(size=10_000)})
        counts = profile.count({"x": rng.normal(size=1_000)})
        calibrated = profile.floors_at(np.array([1_000]))[0][0]
        assert 0.03 < calibrated < 0.1
        assert compare(profile, counts, floor=0.01)["x"].floor == calibrated
        assert compare(profile, counts, floor=0.3)["x"].floor == 0.3

    def test_shares_are_tested_exactly(self):
        """A few missing rows where the reference had hardly any are no drift; many are, by the hypergeometric tail."""
        values = shares((None, 20), (1.0, 5_000), (2.0, 4_980))
        few = [[3, 197], [20, 9_980]]
        assert stats.chi2_contingency(few, correction=False).pvalue < 0.0002  # which the asymptotic test believes
        assert one(values, shares((None, 3), (1.0, 100), (2.0, 97))).drifted is False
        live = shares((None, 8), (1.0, 100), (2.0, 100))
        report = one(values, live)
        assert (report.drifted, report.reasons) == (True, ("missing",))
        tail = stats.hypergeom(10_208, 28, 208).sf(7)
        alpha = 2 * 2 * tail  # two-sided, of two tests
        assert one(values, live, alpha=alpha * 1.001).drifted is True
        assert one(values, live, alpha=alpha * 0.999).drifted is False

    def test_unseen_categories_are_tested_apart(self):
        """A new category drifts by its share: one row of a thousand is none, three per cent are."""
        values = shares(("a", 5_000), ("b", 5_000))
        report = one(values, shares(("a", 500), ("b", 499), ("new", 1)))
        assert (report.drifted, report.other_share) == (False, 0.001)
        report = one(values, shares(("a", 485), ("b", 485), ("new", 30)))
        assert (report.drifted, report.reasons, report.severity) == (True, ("other",), 2)

    def test_rare_categories_are_pooled(self):
        """Categories that expect fewer than five rows are tested as one: the law of the test does not hold for each."""
        values = shares(("a", 5_000), *((f"c{i}", 10) for i in range(40)))
        report = one(values, shares(("a", 185), ("c0", 15)))
        assert report.chi_square_pvalue < 1e-10
        assert report.total_variation >= report.floor
        assert report.drifted is False
        assert one(values, shares(("a", 140), ("c0", 60))).drifted is True  # not rare any more

    def test_types_count_as_missing(self):
        """Text where a number belongs is missing for the verdict."""
        report = one([1.0, 2.0] * 500, [1.0, 2.0] * 450 + ["x"] * 100)
        assert (report.n, report.missing_share, report.reasons) == (900, 0.1, ("missing",))

    def test_a_constant_that_moves(self):
        """A constant column drifts as soon as it moves, and is silent until then."""
        assert one([7.0] * 500, [7.0] * 300).drifted is False
        moved = one([7.0] * 500, [8.0] * 300)
        assert (moved.drifted, moved.severity, moved.ks_statistic, moved.wasserstein) == (True, 3, 1.0, None)


class TestSeverity:
    @pytest.mark.parametrize(("share", "severity"), [(0.40, 1), (0.36, 1), (0.34, 2), (0.30, 2), (0.25, 3), (0.0, 3)])
    def test_by_the_size_of_the_change(self, share, severity):
        """Below 0.1 of debiased PSI a drift is minor, below 0.2 moderate, from there on major."""
        live = shares((0, round(share * 20_000)), (1, round((1 - share) * 20_000)))
        report = one(shares((0, 10_000), (1, 10_000)), live)
        by_psi = 1 + (report.psi_debiased >= 0.1) + (report.psi_debiased >= 0.2)
        assert report.severity == by_psi == severity
        assert report.verdict == ("minor", "moderate", "major")[severity - 1]

    @pytest.mark.parametrize(
        ("gone", "severity"), [(0, 0), (90, 0), (110, 1), (490, 1), (510, 2), (1_990, 2), (2_010, 3), (10_000, 3)]
    )
    def test_by_the_change_of_the_missing_share(self, gone, severity):
        """A change of 5 % of the missing rows is at least moderate, of 20 % major; below 1 % it is none."""
        report = one([1.0] * 10_000, [1.0] * (10_000 - gone) + [None] * gone, min_rows=1)
        assert report.severity == severity
        assert report.reasons == (("missing",) if severity else ())

    @pytest.mark.parametrize(("new", "severity"), [(90, 0), (110, 1), (510, 2), (2_010, 3)])
    def test_by_the_share_of_unseen_categories(self, new, severity):
        """Unseen categories weigh like missing rows, if their number alone is what changed."""
        report = one(["a"] * 10_000, ["a"] * (10_000 - new) + ["b"] * new)
        assert report.severity >= severity
        assert bool(report.severity) == bool(severity)

    def test_a_share_that_became_smaller(self):
        """Fewer missing rows than in the reference are a change too."""
        report = one([1.0] * 7_000 + [None] * 3_000, [1.0] * 1_000)
        assert (report.reasons, report.severity) == (("missing",), 3)


class TestCounts:
    @pytest.mark.parametrize(
        "counts",
        [
            [1, 2],
            np.zeros(3),
            None,
            "x",
            PROFILE.counts[:-1],
            PROFILE.counts.astype(float),
            -PROFILE.counts,
            PROFILE.counts[None],
        ],
        ids=["short", "other", "None", "text", "one less", "float", "negative", "2-d"],
    )
    def test_what_is_no_count_vector_is_refused(self, counts):
        """Counts of another length, shares or negative numbers are refused with what was expected."""
        with pytest.raises(
            CountsError, match=rf"^Expected {PROFILE.layout.size} whole numbers >= 0, .*`reference.count`\.$"
        ):
            compare(PROFILE, counts)

    def test_the_reference_against_itself(self):
        """The reference does not differ from itself: every distance is exactly 0 and nothing drifted."""
        report = compare(PROFILE, PROFILE.counts)
        assert report.drifted == []
        for feature in report:
            for name in (
                "psi",
                "psi_smoothed",
                "psi_debiased",
                "js_divergence",
                "kl_divergence",
                "hellinger",
                "total_variation",
            ):
                assert getattr(feature, name) == 0, (feature.name, name)
            assert feature.ks_statistic in {0, None}
            assert feature.wasserstein in {0, None}

    def test_arguments_are_left_alone(self):
        """Neither the counts nor the reference are touched."""
        counts, text = PROFILE.count(raw(500, 3, 1.0)), PROFILE.to_json()
        before = counts.copy()
        counts.setflags(write=False)
        compare(PROFILE, counts)
        assert counts.tolist() == before.tolist()
        assert PROFILE.to_json() == text

    @hypothesis.given(data=st.data())
    @hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
    def test_any_counts_make_a_report(self, data):
        """Whatever the counts, there is a report without a NaN and without a warning."""
        at = data.draw(st.lists(st.tuples(st.integers(0, PROFILE.layout.size - 1), st.integers(0, 2**40)), max_size=30))
        counts = np.zeros(PROFILE.layout.size, dtype=np.int64)
        for cell, rows in at:
            counts[cell] = rows
        report = compare(PROFILE, counts, min_rows=data.draw(st.integers(1, 300)))
        report.to_json()  # refuses NaN
        for feature in report:
            assert (feature.severity is None) == (feature.drifted is None)
            assert bool(feature.severity) == bool(feature.drifted) == bool(feature.reasons)

    def test_other_kinds_of_integers(self):
        """Lists and unsigned counts are counts too."""
        counts = PROFILE.count(raw(500, 3))
        want = compare(PROFILE, counts).to_dict()
        assert compare(PROFILE, counts.tolist()).to_dict() == want
        assert compare(PROFILE, counts.astype(np.uint32)).to_dict() == want


def test_the_family_agrees_with_scipy():
    """The rule that decides is Benjamini-Hochberg's as scipy has it."""
    pvalues = np.random.default_rng(0).random(40) ** 3
    adjusted = stats.false_discovery_control(pvalues)
    assert benjamini_hochberg(pvalues, 0.2).tolist() == (adjusted <= 0.2).tolist()
