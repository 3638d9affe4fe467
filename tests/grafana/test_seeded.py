"""Every query of every dashboard, asked of a real Prometheus in which the real example service has a past."""

from __future__ import annotations

import pytest
from support.dashboards import Board, load
from support.seeding import TESTS, seeded
from support.silent import SILENT

DASHBOARDS = load()
BIKE = {"job": ["bike-demand"], "model_name": ["bike-demand"], "model_version": ["2011.1"], "baseline": ["2011.1"]}
FLIGHTS = {"job": ["late-flights"], "model_name": ["late-flights"], "model_version": ["8"], "baseline": ["7"]}
# What a person may look at: everything, a regression and one of its features, a category, a classification.
CHOSEN = {
    "all": {},
    "regression": BIKE | {"feature": ["temp"]},
    "category": BIKE | {"feature": ["season"]},
    "classification": FLIGHTS | {"feature": ["prediction"]},
}
IDLE = BIKE | {"job": ["idle"], "feature": ["temp"]}


@pytest.fixture(scope="module")
def past(tmp_path_factory):
    """A Prometheus with two and a half hours of three replicas, of another model, and of a service that nobody asks."""
    with seeded(tmp_path_factory.mktemp("past") / "seeded", TESTS) as found:
        yield found


@pytest.fixture(params=DASHBOARDS)
def board(request, past):
    """A dashboard that looks at it."""
    return Board(DASHBOARDS[request.param], past.server, start=past.start, end=past.end, scrape=past.story.step)


def uid(board):
    return board.dashboard["uid"]


def described(panel, answer):
    """A query and what is wrong with it, to be found in a failure."""
    wrong = answer.error or f"{answer.nans} NaN"
    return f"{panel['title']!r} {answer.target['refId']}: {wrong}\n    {answer.expression[:300]}"


def test_there_are_dashboards_to_look_at():
    """All five are there; without one its queries would pass unseen."""
    assert {f"modelwatch-{name}" for name in ("overview", "service", "infra", "model", "drift")} == set(DASHBOARDS)


def test_every_query_has_data(board):
    """Each query of each panel brings series for one choice of variables at least, and never an error or NaN."""
    wrong, empty = [], {}
    for chosen in CHOSEN.values():
        for panel in board.panels(chosen):
            for answer in board.answers(panel):
                if answer.error or answer.nans:
                    wrong.append(described(panel, answer))
                key = panel["title"], answer.target["refId"]
                empty[key] = empty.get(key, True) and not answer.lines
    assert wrong == []
    silent = {key for key, nothing in empty.items() if nothing}
    known = {(title, query) for dashboard, title, query in SILENT if dashboard == uid(board)}
    assert silent - known == set(), "queries without data; mend them, or give the reason in tests/support/silent.py"
    assert known - silent == set(), "queries of tests/support/silent.py that do have data, or do not exist: remove them"


@pytest.mark.parametrize("chosen", CHOSEN)
def test_every_variable_has_options(board, chosen):
    """Each variable that is asked for offers something, whatever is chosen before it."""
    for name, query in board.variable_queries(CHOSEN[chosen]):
        assert board.asked(query), f"${name}: {query}"


def test_annotations_have_data(board):
    """Deployments and firing alerts are found: the release in the middle of the story, and the drift after it."""
    found = board.annotations({})
    assert found
    for annotation, answer in found:
        assert not answer.error, answer.error
        assert answer.lines, annotation["name"]
        assert not answer.nans


def test_idle_service_has_neither_nan_nor_error(board):
    """With a service that nobody has asked anything, panels may be empty, but none shows NaN or an error."""
    answers = [(panel, answer) for panel in board.panels(IDLE) for answer in board.answers(panel)]
    assert [described(panel, answer) for panel, answer in answers if answer.error or answer.nans] == []
    assert any(answer.lines for _, answer in answers), "the idle service is not there"
    assert [answer.error for _, answer in board.annotations(IDLE) if answer.error] == []


def test_recorded_series_are_numbers(past):
    """No recording rule recorded a NaN, for no service, at no time: one would spoil every average over it."""
    recorded = '{__name__=~"modelwatch:.+"}'
    total, numbers = f"count by (__name__) ({recorded})", f"count by (__name__) ({recorded} >= -Inf)"  # no NaN is that
    spoilt = f"{total} unless on (__name__) ({numbers} == on (__name__) {total})"
    assert past.server.query(total, past.end)
    assert past.server.query_range(spoilt, past.start, past.end, past.story.step) == []


def test_story_is_told(past):
    """What the story says is what the rules find: temp drifts in the end and not before the release, hour never."""
    drifted = 'max by (feature) (modelwatch:feature_drifted:1h{job="bike-demand", model_version="2011.1"})'
    calm = past.start + 0.45 * (past.end - past.start)
    assert past.server.values(drifted, "feature", past.end).items() >= {"temp": 1.0, "season": 1.0, "hour": 0.0}.items()
    assert set(past.server.values(drifted, "feature", calm).values()) == {0.0}


def test_silent_list_gives_reasons():
    """Whoever is on the list has a reason, of a sentence."""
    assert all(len(reason.split()) > 3 for reason in SILENT.values())
