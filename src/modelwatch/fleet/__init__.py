"""What Prometheus computes over the whole fleet, as files: recording rules, alert rules, objects for Kubernetes.

::

    options.py ─► recording.py (statistics of promql.py) ─┐
               └► alerts.py ──────────────────────────────┼─► writing.py ─► rules/*.yml
                       shipped.py (dashboards, runbook) ──┴─► kubernetes.py
"""
