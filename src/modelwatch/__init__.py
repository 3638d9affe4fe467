"""modelwatch: a FastAPI model service, its machine and its model, watched in Prometheus.

One call, `instrument(app, model_name=…, reference="reference.json")`, and this is what happens:

::

    request ─ asgi.py ───► service cells (requests, latency, sizes, in progress)                     push, integers
       └ endpoint ─ capture.py ─► monitor.record(features, predictions, …) ─► buffer (append)        push, append only
    fold (1,024 rows, or tick) ─► reference.index ─► window.add                                      background
    tick ─► sharing.py ─► this worker's share, published for the other workers                       background
    scrape ─► exposition.py ─► Σ shares of all workers ─► compare ─► gauges ─► /metrics              pull

Requests write integers; scrapes do arithmetic.
"""

from ._version import __version__
from .detectors import ADWIN, PageHinkley, SlidingWindowDetector
from .exceptions import ModelWatchError
from .files import ReferenceProfile
from .instrument import instrument
from .monitor import Monitor
from .report import DriftReport, FeatureReport
from .samples import DriftDetector
from .settings import FeatureRule, Settings
from .statistics import (
    chi_square,
    hellinger,
    js_divergence,
    kl_divergence,
    ks_pvalue,
    ks_statistic,
    psi,
    total_variation,
    wasserstein,
)
from .verdict import compare

__all__ = [
    "ADWIN",
    "DriftDetector",
    "DriftReport",
    "FeatureReport",
    "FeatureRule",
    "ModelWatchError",
    "Monitor",
    "PageHinkley",
    "ReferenceProfile",
    "Settings",
    "SlidingWindowDetector",
    "__version__",
    "chi_square",
    "compare",
    "hellinger",
    "instrument",
    "js_divergence",
    "kl_divergence",
    "ks_pvalue",
    "ks_statistic",
    "psi",
    "total_variation",
    "wasserstein",
]
