"""What `build.py` makes the dashboards of.

::

    queries.py   PromQL: whom a panel asks about, guarded ratios, quantiles, comparisons of two distributions
    panels.py    the kinds of panels, in one look; descriptions with the help texts of the metric catalogue
    tables.py    tables and bars of bins: several instant queries side by side
    frame.py     what all dashboards share: variables, annotations, links, the grid
    overview.py  service.py ─ routes.py  infra.py  model.py ─ comparing.py  drift.py ─ feature.py, replicas.py
                 a dashboard each, row by row, with rows in rooms of their own
"""
