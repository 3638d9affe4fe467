"""The verdict: compares a window's counts with the reference and decides. Pure arithmetic on two count vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from . import kernels
from ._types import Counts, Flags, Floats
from .exceptions import CountsError
from .reference import Profile
from .report import DriftReport
from .settings import FeatureRule
from .significance import benjamini_hochberg, kolmogorov_pvalue, share_change_pvalue

_NO_RULE = FeatureRule()


def compare(
    reference: Profile,
    counts: Counts,
    *,
    alpha: float = 0.001,
    floor: float = 0.05,
    share_floor: float = 0.01,
    min_rows: int = 200,
    features: Mapping[str, FeatureRule] | None = None,
    captured: Sequence[bool] | None = None,
    rows: int | None = None,
    seconds: float | None = None,
    model_name: str = "",
    model_version: str = "",
) -> DriftReport:
    """Compare a window's counts with a reference: every statistic of every feature, and a verdict.

    A feature drifted if its change is significant and large. Significant: by Benjamini and Hochberg over all tests of
    all features (KS or chi-square, share of missing values, share of unseen categories). Large: the KS statistic or
    the total variation reaches the floor, or a share changed by `share_floor`.

    Parameters
    ----------
    reference
        The profile.
    counts
        What `reference.count` returned: int64, shape (cells,). Not modified.
    alpha
        False discovery rate, in (0, 1).
    floor, share_floor
        Least distance, and least change of a share, that is large, in [0, 1]; calibrated floors only raise them.
    min_rows
        Rows below which nothing is said of a feature.
    features
        Rules of single features.
    captured
        False for features that never arrived, in the reference's order: nothing is said of them.
    rows, seconds, model_name, model_version
        What the report says of the window, see DriftReport.

    Raises
    ------
    CountsError
        `counts` is no count vector over the reference's cells.
    """
    counts = _checked(reference, counts)
    layout = reference.layout
    rules = [(features or {}).get(name, _NO_RULE) for name in reference.names]
    alerting = np.array([rule.alert for rule in rules])
    there = np.ones(len(rules), dtype=bool) if captured is None else np.asarray(captured, dtype=bool)
    found = _Findings(reference, counts)
    counted = there & (found.rows >= min_rows) & (reference.rows_of_features > 0)
    known = counted & (found.n >= min_rows) & (found.m > 0)
    floors = _floors(reference, found.rows, rules, floor, share_floor)
    part = np.stack([known, counted, known]) & alerting
    scale = np.array([1.0 if rule.alpha is None else alpha / rule.alpha for rule in rules])
    significant = benjamini_hochberg(np.where(part, found.pvalues * scale, np.nan).ravel(), alpha)
    with np.errstate(invalid="ignore"):
        reasons = significant.reshape(part.shape) & (found.changes >= floors)
    judged = counted & alerting
    columns = {name: np.where(known, column, np.nan) for name, column in found.statistics.items()} | {
        "n": found.n.astype(np.float64),
        "m": found.m.astype(np.float64),
        "alerting": alerting.astype(np.float64),
        "captured": there.astype(np.float64),
        "drifted": np.where(judged, reasons.any(axis=0), np.nan),
        "severity": np.where(judged, _severity(found, reasons), np.nan),
        "floor": floors[0],
        "missing_share": np.where(counted, found.missing, np.nan),
        "reference_missing_share": found.reference_missing,
        "reference_mean": np.array([feature.mean for feature in reference.features]),
    }
    return DriftReport(
        reference=reference.id,
        names=reference.names,
        kinds=tuple(cells.kind for cells in layout.cells),
        columns=columns,
        reasons=reasons,
        rows=int(found.rows.max(initial=0)) if rows is None else rows,
        min_rows=min_rows,
        seconds=seconds,
        model_name=model_name,
        model_version=model_version,
    )


class _Findings:
    """Every statistic as an array over the features, NaN where it does not apply; p-values and sizes of the changes.

    `pvalues` and `changes` have shape (3, features), in the order of REASONS.
    """

    def __init__(self, reference: Profile, counts: Counts) -> None:
        layout = reference.layout
        self.rows = np.add.reduceat(counts, layout.starts)
        missing = layout.missing_rows(counts)
        self.n, self.m = self.rows - missing, reference.value_rows
        with np.errstate(invalid="ignore", divide="ignore"):
            self.missing = missing / self.rows
            self.reference_missing = 1 - self.m / reference.rows_of_features
        self.statistics: dict[str, Floats] = {}
        self._bins(reference, layout.binned(counts))
        self._order(reference, counts)
        distance = self.statistics["total_variation"].copy()
        distance[layout.numeric] = self.statistics["ks_statistic"][layout.numeric]
        self.changes = np.stack(
            [distance, np.abs(self.missing - self.reference_missing), self.statistics["other_share"]]
        )
        self.pvalues = np.stack(
            [
                self._main,
                _share_pvalues(missing, self.rows, reference.rows_of_features - self.m, reference.rows_of_features),
                self._other,
            ]
        )

    def _bins(self, reference: Profile, counts: Counts) -> None:
        """What is of bins: the distances, and for categories chi-square and the share of unseen ones."""
        layout, own = reference.layout, reference.binned
        for name in _OF_BINS:
            self.statistics[name] = getattr(kernels, f"{name}_by_feature")(own, counts, layout.bins)
        categorical = layout.categorical
        unknown = np.full(self.n.size, np.nan)
        self._main, self._other = unknown.copy(), unknown.copy()
        for name in ("chi_square_pvalue", "other_share"):
            self.statistics[name] = unknown.copy()
        if not categorical.size:
            return
        chi_square = kernels.chi_square_by_feature(own, counts, layout.bins)
        pooled = kernels.chi_square_by_feature(own, counts, layout.bins, min_expected=5)
        self.statistics["chi_square_pvalue"][categorical] = chi_square[1][categorical]
        self._main[categorical] = pooled[1][categorical]
        last = (layout.bins.starts + layout.bins.lengths - 1)[categorical]  # the bin `_other`
        unseen, n = counts[last], self.n[categorical]
        self.statistics["other_share"][categorical] = np.divide(unseen, n, out=np.full(n.size, np.nan), where=n > 0)
        self._other[categorical] = _share_pvalues(unseen, n, own[last], self.m[categorical])

    def _order(self, reference: Profile, counts: Counts) -> None:
        """What needs the order of numbers: KS, Wasserstein, the mean."""
        layout = reference.layout
        at = layout.numeric
        for name in ("ks_statistic", "ks_pvalue", "ks_error", "wasserstein", "mean"):
            self.statistics[name] = np.full(self.n.size, np.nan)
        if not at.size:
            return
        own, window = reference.in_order, layout.in_order(counts)
        gaps = kernels.gaps_by_feature(own, window, layout.ordered)
        statistic = kernels.largest_gap(gaps, layout.ordered)
        self.statistics["ks_statistic"][at] = statistic
        self._main[at] = kolmogorov_pvalue(statistic, self.n[at], self.m[at])
        self.statistics["ks_pvalue"][at] = self._main[at]
        self.statistics["ks_error"][at] = reference.ks_error
        sds = np.array([reference.features[i].sd for i in at.tolist()])
        with np.errstate(over="ignore", invalid="ignore"):  # huge numbers have infinite sums: then nothing is known
            areas = kernels.area_of_gaps(gaps, layout.ordered, reference.points)
            totals, n = layout.ordered.sums(window * reference.points), self.n[at]
        self.statistics["wasserstein"][at] = np.divide(areas, sds, out=np.full(at.size, np.nan), where=sds > 0)
        self.statistics["mean"][at] = np.divide(totals, n, out=np.full(at.size, np.nan), where=n > 0)


_OF_BINS = (
    "psi", "psi_smoothed", "psi_debiased", "psi_critical",
    "js_divergence", "kl_divergence", "hellinger", "total_variation",
)  # fmt: skip


def _share_pvalues(x: Counts, n: Counts, y: Counts, m: Counts) -> Floats:
    """Of changes of a share; 1 at once where neither side has any, which is the rule."""
    touched = x + y > 0
    pvalues = np.ones(x.size)
    if touched.any():
        pvalues[touched] = share_change_pvalue(x[touched], n[touched], y[touched], m[touched])
    return pvalues


def _floors(reference: Profile, rows: Counts, rules: list[FeatureRule], floor: float, share_floor: float) -> Floats:
    """The least change that is large, shape (3, features), in the order of REASONS."""
    distance, missing = reference.floors_at(rows)
    floors = np.stack([np.maximum(floor, distance), np.maximum(share_floor, missing), np.full(rows.size, share_floor)])
    for i, rule in enumerate(rules):
        if rule.floor is not None:
            floors[0, i] = rule.floor
        if rule.share_floor is not None:
            floors[1:, i] = rule.share_floor
    return floors


def _severity(found: _Findings, reasons: Flags) -> Counts:
    """0 none, 1 minor, 2 moderate, 3 major, shape (features,)."""
    debiased = np.nan_to_num(found.statistics["psi_debiased"])
    by_psi = 1 + (debiased >= 0.1).astype(np.int64) + (debiased >= 0.2)
    change = np.where(reasons[1:], found.changes[1:], 0.0).max(axis=0)
    by_share = 2 * (change >= 0.05).astype(np.int64) + (change >= 0.2)
    return np.where(reasons.any(axis=0), np.maximum(by_psi, by_share), 0)


def _checked(reference: Profile, counts: Counts) -> Counts:
    vector = np.asarray(counts)
    if vector.shape != (reference.layout.size,) or vector.dtype.kind not in "iu" or (vector < 0).any():
        raise CountsError(
            f"Expected {reference.layout.size} whole numbers >= 0, one for each cell of {reference!r}, got shape "
            f"{vector.shape} of {vector.dtype}. Count with `reference.count`."
        )
    return vector.astype(np.int64, copy=False)
