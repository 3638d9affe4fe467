"""Settings: from code and environment, refused at once and by name when they cannot be used."""

from __future__ import annotations

import os

import pytest
from pydantic import ValidationError

from modelwatch.exceptions import ConfigurationError
from modelwatch.settings import FeatureRule, Settings

# Every field but `features`: what stands in the environment, and what it means.
ENVIRONMENT = {
    "disabled": ("1", True),
    "alpha": ("0.01", 0.01),
    "floor": ("0.1", 0.1),
    "share_floor": ("0.02", 0.02),
    "min_rows": ("50", 50),
    "window_seconds": ("600", 600.0),
    "window_slots": ("6", 6),
    "max_window_seconds": ("7200", 7200.0),
    "window_rows": ("5000", 5000),
    "max_age_seconds": ("60", 60.0),
    "event_time": ("true", True),
    "sample_rate": ("0.5", 0.5),
    "task": ("regression", "regression"),
    "low_confidence": ("0.7", 0.7),
    "max_classes": ("10", 10),
    "learn_rows": ("1000", 1000),
    "learn_seconds": ("0", 0.0),
    "learn_path": ("/tmp/r.json", "/tmp/r.json"),
    "watch_reference": ("false", False),
    "max_reference_bytes": ("2048", 2048),
    "metrics_path": ("/internal/metrics", "/internal/metrics"),
    "metrics_token": ("secret", "secret"),
    "metrics_port": ("9464", 9464),
    "metrics_host": ("127.0.0.1", "127.0.0.1"),
    "collect_seconds": ("2.5", 2.5),
    "page": ("true", True),
    "page_path": ("/internal/live", "/internal/live"),
    "metrics": ("infra=false, model_batch_size=true", {"infra": False, "model_batch_size": True}),
    "buckets": ('{"model_batch_size": [1, 2.5]}', {"model_batch_size": (1.0, 2.5)}),
    "labels": ("team=fraud,region=eu", {"team": "fraud", "region": "eu"}),
    "capture": ("off", False),
    "buffer_rows": ("1024", 1024),
    "max_series": ("512", 512),
    "dir": ("/run/modelwatch", "/run/modelwatch"),
}
COMPANIONS = {"max_age_seconds": {"window_rows": 1000}}  # of no use alone


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch):
    for name in [name for name in os.environ if name.upper().startswith("MODELWATCH_")]:
        monkeypatch.delenv(name)


def refused(said, make=Settings, **values):
    with pytest.raises(ConfigurationError) as caught:
        make(**values)
    message = str(caught.value)
    assert message.startswith("Expected ")
    assert message[-1] in ".?"
    assert said in message, message
    return message


def test_defaults():
    """Without anything set the defaults are those of the documentation, and each option says what it is for."""
    settings = Settings()
    assert (settings.alpha, settings.floor, settings.share_floor, settings.min_rows) == (0.001, 0.05, 0.01, 200)
    assert (settings.window_seconds, settings.window_slots, settings.max_window_seconds) == (3600, 12, 86400)
    assert settings.window_rows is settings.task is settings.metrics_token is settings.learn_path is None
    assert all(field.description for field in Settings.model_fields.values())


def test_the_table_above_is_complete():
    """Every option but `features` is tried from the environment."""
    assert ENVIRONMENT.keys() == Settings.model_fields.keys() - {"features"}


class TestEnvironment:
    @pytest.mark.parametrize("name", ENVIRONMENT)
    @pytest.mark.parametrize("case", [str.upper, str.lower])
    def test_every_option_is_read(self, monkeypatch, name, case):
        """MODELWATCH_<NAME> sets the option, in capitals or small letters."""
        text, want = ENVIRONMENT[name]
        monkeypatch.setenv(case(f"MODELWATCH_{name}"), text)
        got = getattr(Settings(**COMPANIONS.get(name, {})), name)
        assert (got.get_secret_value() if name == "metrics_token" else got) == want

    def test_code_wins(self, monkeypatch):
        """What stands in code overrules the environment; the rest of the environment holds."""
        monkeypatch.setenv("MODELWATCH_ALPHA", "0.5")
        monkeypatch.setenv("MODELWATCH_MIN_ROWS", "7")
        settings = Settings(alpha=0.25)
        assert (settings.alpha, settings.min_rows) == (0.25, 7)

    def test_nothing_else_is_read(self, monkeypatch, tmp_path):
        """Neither a .env file nor variables without the prefix set anything."""
        monkeypatch.chdir(tmp_path)
        (tmp_path / ".env").write_text("MODELWATCH_ALPHA=0.5\n")
        monkeypatch.setenv("ALPHA", "0.5")
        assert Settings().alpha == 0.001

    @pytest.mark.parametrize(
        ("variable", "said"),
        [
            ("MODELWATCH_ALHPA", "got MODELWATCH_ALHPA, which does not exist. Did you mean MODELWATCH_ALPHA?"),
            ("modelwatch_windw_rows", "Did you mean MODELWATCH_WINDOW_ROWS?"),
            ("MODELWATCH_ZZZ", "got MODELWATCH_ZZZ, which does not exist. Remove it."),
            ("MODELWATCH_", "which does not exist"),
            ("MODELWATCH_FEATURES", "got MODELWATCH_FEATURES, which does not exist"),
        ],
    )
    def test_unknown_variables_are_refused(self, monkeypatch, variable, said):
        """A variable with our prefix that means nothing is refused, with the nearest name: it is a spelling mistake."""
        monkeypatch.setenv(variable, "1")
        refused(said)

    @pytest.mark.parametrize(
        ("name", "text"),
        [
            ("alpha", "high"),
            ("alpha", "2"),
            ("min_rows", "1.5"),
            ("min_rows", ""),
            ("event_time", "perhaps"),
            ("task", "clustering"),
            ("labels", "team"),
            ("labels", "{"),
            ("labels", "[1]"),
            ("metrics", "infra=perhaps"),
            ("buckets", "model_batch_size=x"),
            ("buckets", '{"a": [2, 1]}'),
            ("metrics_path", "metrics"),
        ],
    )
    def test_values_that_cannot_be_used_are_refused_by_key(self, monkeypatch, name, text):
        """A value of the wrong form or out of range is refused, and the message names the variable or the option."""
        monkeypatch.setenv(f"MODELWATCH_{name.upper()}", text)
        assert name in refused("").lower()

    def test_tables_may_be_json(self, monkeypatch):
        """Tables are written name=value with commas, or as JSON; blanks and empty items do not matter."""
        for text in ("a=x,b=y=z", " a = x , b = y=z ,", '{"a": "x", "b": "y=z"}'):
            monkeypatch.setenv("MODELWATCH_LABELS", text)
            assert Settings().labels == {"a": "x", "b": "y=z"}


class TestCode:
    @pytest.mark.parametrize(
        ("values", "said"),
        [
            ({"alhpa": 0.1}, "Expected the name of a setting, got alhpa, which does not exist. Did you mean alpha?"),
            ({"zzz": 1}, "got zzz, which does not exist. Remove it."),
            ({"alpha": 0}, "Expected `alpha` (in code, or MODELWATCH_ALPHA) to be usable, but got 0;"),
            ({"alpha": 1}, "`alpha`"),
            ({"alpha": float("nan")}, "`alpha`"),
            ({"floor": 1.5}, "`floor`"),
            ({"share_floor": 0}, "`share_floor`"),
            ({"min_rows": 0}, "`min_rows`"),
            ({"window_seconds": float("inf")}, "`window_seconds`"),
            ({"window_seconds": -1}, "`window_seconds`"),
            ({"window_slots": 1}, "`window_slots`"),
            ({"window_rows": 10**9}, "`window_rows`"),
            ({"sample_rate": 0}, "`sample_rate`"),
            ({"learn_rows": 10}, "`learn_rows`"),
            ({"low_confidence": 1.1}, "`low_confidence`"),
            ({"task": "ranking"}, "`task`"),
            ({"metrics_path": "/metrics/"}, "`metrics_path`"),
            ({"metrics_path": "/"}, "`metrics_path`"),
            ({"metrics_path": "/a b"}, "`metrics_path`"),
            ({"labels": {"le": "x"}}, "'le' cannot be the name of a constant label"),
            ({"labels": {"__name": "x"}}, "`labels`"),
            ({"labels": {"a-b": "x"}}, "`labels`"),
            ({"labels": {"a\n": "x"}}, "`labels`"),
            ({"buckets": {"a": []}}, "the bounds of 'a' must be 1 to 100 finite numbers that rise"),
            ({"buckets": {"a": [1, 1]}}, "`buckets`"),
            ({"buckets": {"a": [1, float("inf")]}}, "`buckets`"),
            ({"buckets": {"a": [float("nan"), 1]}}, "`buckets`"),
            ({"buckets": {"a": range(101)}}, "`buckets`"),
            ({"features": {"hour": 5}}, "`features.hour`"),
        ],
    )
    def test_what_cannot_be_used_is_refused_by_key(self, values, said):
        """Unknown names and values out of range are refused with key, value and remedy."""
        refused(said, **values)

    @pytest.mark.parametrize(
        ("values", "said"),
        [
            ({"window_rows": 1000, "window_seconds": 60}, "`window_rows` and `window_seconds` exclude each other"),
            ({"window_rows": 1000, "window_slots": 6}, "`window_rows` and `window_slots` exclude each other"),
            ({"window_rows": 1000, "max_window_seconds": 60}, "`window_rows` and `max_window_seconds` exclude"),
            ({"window_rows": 1000, "event_time": True}, "`window_rows` and `event_time` exclude each other"),
            ({"window_rows": 100}, "`window_rows` (100) must not be below `min_rows` (200)"),
            ({"max_age_seconds": 60}, "`max_age_seconds` belongs to `window_rows`"),
            ({"window_seconds": 600, "max_window_seconds": 60}, "`max_window_seconds` (60) must not be below"),
        ],
    )
    def test_contradictions_are_refused(self, values, said):
        """Options that exclude each other are refused, and both are named."""
        refused(said, **values)

    def test_contradictions_with_the_environment(self, monkeypatch):
        """An option in code that contradicts one in the environment is refused too."""
        monkeypatch.setenv("MODELWATCH_WINDOW_ROWS", "1000")
        refused("exclude each other", window_seconds=60)

    def test_a_longer_window_takes_its_limit_along(self):
        """A window longer than the default limit is allowed without setting the limit too."""
        assert Settings(window_seconds=14 * 86400).window_seconds == 14 * 86400

    def test_frozen(self):
        """Nothing can be set afterwards, in settings or rules; what they were made of can change without effect."""
        rules = {"hour": FeatureRule(alert=False)}
        settings = Settings(features=rules)
        rules["age"] = FeatureRule()
        assert list(settings.features) == ["hour"]
        for target, name in ((settings, "alpha"), (settings, "new"), (settings.features["hour"], "alert")):
            with pytest.raises(ValidationError):
                setattr(target, name, 0.5)

    def test_keyword_only(self):
        """Options have no order."""
        with pytest.raises(TypeError):
            Settings(0.1)

    def test_the_token_is_not_shown(self):
        """The token of the metrics is in no representation."""
        settings = Settings(metrics_token="hush")
        assert "hush" not in repr(settings) + str(settings) + settings.model_dump_json()


class TestFeatureRule:
    def test_says_only_what_is_different(self):
        """A rule without arguments changes nothing."""
        rule = FeatureRule()
        assert rule.alert
        assert rule.floor is rule.share_floor is rule.alpha is None

    @pytest.mark.parametrize(
        ("values", "said"),
        [
            ({"flor": 0.1}, "Did you mean floor?"),
            ({"floor": 2}, "`floor`"),
            ({"share_floor": -0.1}, "`share_floor`"),
            ({"alpha": 0}, "`alpha`"),
            ({"alert": "perhaps"}, "`alert`"),
        ],
    )
    def test_refuses_what_cannot_be_used(self, values, said):
        """A rule names the field that is wrong, and no variable, for rules stand in code only."""
        assert "MODELWATCH" not in refused(said, FeatureRule, **values)

    def test_may_be_a_plain_table(self):
        """A rule may be written as a dict; what is wrong in it is named with the feature."""
        assert Settings(features={"hour": {"alert": False}}).features["hour"] == FeatureRule(alert=False)
        assert "MODELWATCH" not in refused("`features.hour.floor`", features={"hour": {"floor": 3}})
        assert "Did you mean floor?" in refused("`features.hour`", features={"hour": {"flor": 3}})
