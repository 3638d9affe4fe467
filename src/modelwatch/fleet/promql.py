"""The statistics of drift as PromQL: the definitions of `statistics.py` over shares and counts that Prometheus has.

Throughout, `p` and `q` are vectors with the share of the rows in each bin, of now and of the reference; `by` are the
labels that both have besides `bin`. Each function returns an expression with one value for each set of these labels.

0 · ln 0 is NaN in PromQL, so shares are clipped: at 1e-6 where the definition says so, else at 1e-12, which
changes nothing that can be seen.
"""

from __future__ import annotations

from collections.abc import Sequence

REST_BINS = "_other|_rare"
_PREFIXES = 9
"""Of at most ten ordered bins the first nine: up to the last one both distributions have all their rows."""

# Wilson and Hilferty's approximation of the 99.9 % quantile of chi-square; at one degree of freedom it is 3 % too high.
_NORMAL_QUANTILE = 3.0902


def total(by: Sequence[str], expression: str) -> str:
    """The sum over bins.

    >>> total(["feature"], "x")
    'sum by (feature) (x)'
    """
    return f"sum by ({', '.join(by)}) ({expression})"


def psi(p: str, q: str, by: Sequence[str]) -> str:
    """Population stability index in nats, with shares clipped at 1e-6."""
    return total(by, f"\n  ({_clip(p)} - {_clip(q)})\n* ln({_clip(p)} / {_clip(q)})\n")


def kl_divergence(p: str, q: str, by: Sequence[str]) -> str:
    """Kullback-Leibler divergence of now from the reference, in nats, with shares clipped at 1e-6."""
    return total(by, f"{_clip(p)} * ln({_clip(p)} / {_clip(q)})")


def js_divergence(p: str, q: str, by: Sequence[str]) -> str:
    """Jensen-Shannon divergence in bits, in [0, 1]."""
    middle = f"clamp_min(({p} + {q}) / 2, 1e-12)"
    return "0.5 * " + total(
        by, f"\n  {p} * log2(clamp_min({p}, 1e-12) / {middle})\n+ {q} * log2(clamp_min({q}, 1e-12) / {middle})\n"
    )


def hellinger(p: str, q: str, by: Sequence[str]) -> str:
    """Hellinger distance, in [0, 1]."""
    return f"sqrt(0.5 * {total(by, f'(sqrt({p}) - sqrt({q})) ^ 2')})"


def total_variation(p: str, q: str, by: Sequence[str]) -> str:
    """Total variation distance, in [0, 1]."""
    return f"0.5 * {total(by, f'abs({p} - {q})')}"


def ks_statistic(p: str, q: str, by: Sequence[str], bins: str = "bin") -> str:
    """Kolmogorov-Smirnov statistic over the edges of bins "00" to "09": of features without a rest bin only.

    `p` must be a bare name or selector with braces that can be narrowed to some bins: what `p` lacks `q` loses too.
    """
    labels = ", ".join(by)
    sums = []
    for last in range(_PREFIXES):
        names = "|".join(f"{index:02d}" for index in range(last + 1))
        part = total(by, f'{p}{{{bins}=~"{names}"}} - {q}')
        sums.append(f'label_replace(abs({part}), "edge", "{last:02d}", "", "")')
    rest = f'{p}{{{bins}=~"{REST_BINS}"}}'
    return f"max by ({labels}) (\n  " + "\n  or ".join(sums) + f"\n)\nunless on ({labels}) {rest}"


def psi_smoothed(counts: str, q: str, by: Sequence[str], *, n: str, m: str, used: str) -> str:
    """Population stability index in nats with half a row added to every used bin of both.

    Parameters
    ----------
    counts, q
        Rows of now, and share of the reference, in each bin.
    by
        Labels that all have besides `bin`.
    n, m, used
        Rows of now and of the reference, and the number of bins in which either has some.
    """
    rows = f"{q} * ignoring (bin) group_left () {m}"
    now = f"({counts} + 0.5)\n    / ignoring (bin) group_left () ({n} + 0.5 * {used})"
    then = f"({rows} + 0.5)\n    / ignoring (bin) group_left () ({m} + 0.5 * {used})"
    difference, ratio = (f"(\n    {now}\n  {sign}\n    {_wrapped(then, sign)}\n  )" for sign in "-/")
    return total(by, f"\n  {difference}\n* ln{ratio}\nand ({counts} + {q} > 0)\n")


def psi_critical(n: str, m: str, used: str) -> str:
    """The bound that the smoothed PSI exceeds in one of 1,000 windows without drift; absent with a single bin."""
    freedom = f"({used} - 1 > 0)"
    spread = f"2 / (9 * {freedom})"
    return f"{freedom} * (1 - {spread} + {_NORMAL_QUANTILE} * sqrt({spread})) ^ 3\n* (1 / {n} + 1 / {m})"


def chi_square(p: str, n: str, q: str, m: str, by: Sequence[str]) -> str:
    """Statistic of the two-sample chi-square test of homogeneity."""
    one, other = (f"{share} * ignoring (bin) group_left () {rows}" for share, rows in ((p, n), (q, m)))
    return f"{n} * {m} * {total(by, f'({p} - {q}) ^ 2 / ({one} + {other} > 0)')}"


def _wrapped(expression: str, sign: str) -> str:
    return f"({expression})" if sign == "/" else expression


def _clip(share: str) -> str:
    return f"clamp_min({share}, 1e-6)"
