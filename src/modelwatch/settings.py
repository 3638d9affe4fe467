"""Everything that can be set, in one frozen object. What contradicts itself or does not exist is refused."""

from __future__ import annotations

import difflib
import itertools
import json
import math
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from .exceptions import ConfigurationError

_PREFIX = "MODELWATCH_"
_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*\Z")
_OWN_LABELS = {"model_name", "model_version", "feature", "reference", "bin", "le", "job", "instance"}

Ratio = Annotated[float, Field(gt=0, le=1)]
Probability = Annotated[float, Field(gt=0, lt=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class FeatureRule(BaseModel):
    """What is different for one feature. Everything left out is as for all.

    Parameters
    ----------
    alert
        False mutes the feature: it is measured and shown, but is never part of a verdict.
    floor
        Least KS statistic (numeric) or total variation (categorical), in [0, 1], that counts as large. It replaces the
        calibrated floor.
    share_floor
        Least change of the share of missing or unseen values, in [0, 1], that counts as large.
    alpha
        False discovery rate of this feature's tests, in (0, 1).

    >>> FeatureRule(floor=0.2).alert
    True
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    alert: bool = True
    floor: Annotated[float, Field(ge=0, le=1)] | None = None
    share_floor: Annotated[float, Field(ge=0, le=1)] | None = None
    alpha: Probability | None = None

    if not TYPE_CHECKING:

        def __init__(self, **values: Any) -> None:
            _refuse_unknown(values, type(self).model_fields, "a field of FeatureRule")
            try:
                super().__init__(**values)
            except ValidationError as error:
                raise _sentence(error, variables=False) from error


class _Environment(EnvSettingsSource):
    """Reads lists as `a,b` and tables as `a=1,b=2`; JSON too."""

    def decode_complex_value(self, field_name: str, field: Any, value: Any) -> Any:
        text = str(value).strip()
        if text[:1] in "[{":
            return json.loads(text)
        items = [item.strip() for item in text.split(",") if item.strip()]
        if field_name not in {"labels", "metrics", "buckets"}:
            return items
        pairs = [item.partition("=") for item in items]
        if not all(equals for _, equals, _ in pairs):
            raise ValueError(f"expected name=value pairs with commas between them, got {text!r}")
        return {name.strip(): content.strip() for name, _, content in pairs}


class Settings(BaseSettings):
    """All options, keyword-only and frozen. Each but `features` is also read from `MODELWATCH_<NAME>`; code wins.

    Raises
    ------
    ConfigurationError
        A name is unknown (also that of an environment variable that begins with MODELWATCH_), a value is out of its
        range, or two contradict each other. The message names the key.

    Notes
    -----
    Threads and processes: frozen, so any number.

    >>> Settings(window_seconds=600).min_rows
    200
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, frozen=True, extra="forbid", case_sensitive=False, hide_input_in_errors=True
    )

    disabled: bool = Field(default=False, description="Leave the app untouched; the Monitor's methods do nothing")

    alpha: Probability = Field(default=0.001, description="False discovery rate over all tests of all features")
    floor: Ratio = Field(default=0.05, description="Least KS statistic or total variation that counts as large")
    share_floor: Ratio = Field(default=0.01, description="Least change of a missing or unseen share that is large")
    min_rows: int = Field(default=200, ge=1, description="Rows of a feature below which nothing is said about it")
    features: Mapping[str, FeatureRule] = Field(default={}, description="Rules of single features; in code only")

    window_seconds: Seconds = Field(default=3600.0, description="Length of the time window")
    window_slots: int = Field(default=12, ge=2, le=120, description="Parts in which the time window moves on")
    max_window_seconds: Seconds = Field(default=86400.0, description="How far it may widen until `min_rows` are there")
    window_rows: int | None = Field(default=None, ge=1, le=1_000_000, description="Last N rows, instead of a time")
    max_age_seconds: Seconds = Field(default=86400.0, description="Oldest row that the window of N rows keeps")
    event_time: bool = Field(default=False, description="Slots by the rows' own timestamps instead of their arrival")
    sample_rate: Ratio = Field(default=1.0, description="Share of the rows that enter the window")

    task: Literal["classification", "regression"] | None = Field(
        default=None, description="What the model predicts; default: by the type of the reference's prediction"
    )
    low_confidence: float = Field(default=0.5, ge=0, le=1, description="Rows below this confidence are counted apart")
    max_classes: int = Field(default=50, ge=1, le=1000, description="Predicted classes with a label of their own")

    learn_rows: int = Field(default=5000, ge=200, le=1_000_000, description='Rows that reference="learn" learns from')
    learn_seconds: float = Field(default=3600.0, ge=0, description="Least time that these rows must span")
    learn_path: str | None = Field(default=None, description="File of the learnt reference; if it exists it is loaded")
    watch_reference: bool = Field(default=True, description="Reload the reference when its file has changed")
    max_reference_bytes: int = Field(default=64 * 2**20, ge=1024, description="Largest reference file that is read")

    metrics_path: str = Field(default="/metrics", description="Where the metrics are served, exactly")
    metrics_token: SecretStr | None = Field(default=None, description="Bearer token that a scrape must bring")
    metrics_port: int | None = Field(
        default=None, ge=1, le=65535, description="Serve the metrics on this port, from a thread, and not in the app"
    )
    metrics_host: str = Field(default="0.0.0.0", description="Address that `metrics_port` is opened on")  # noqa: S104 - a scraper is another machine
    collect_seconds: Seconds = Field(default=5.0, description="How long a scrape waits for a collector of yours")
    page: bool = Field(default=False, description="Serve a live page for people, beside the metrics, by the same token")
    page_path: str = Field(default="/modelwatch", description="Where the live page is served, exactly")
    metrics: Mapping[str, bool] = Field(default={}, description="Metrics, or layers of them, to switch on or off")
    buckets: Mapping[str, tuple[float, ...]] = Field(default={}, description="Bucket bounds by name of a histogram")
    labels: Mapping[str, str] = Field(default={}, description="Constant labels on all metrics")

    capture: bool = Field(default=True, description="Find rows in requests; off: only what `record()` brings")
    buffer_rows: int = Field(default=65_536, ge=256, description="Rows that may wait for the fold; more are dropped")
    max_series: int = Field(default=4096, ge=256, description="Label sets of one metric; more fold into _other")
    dir: str | None = Field(default=None, description="Where workers share what they count; default: memory, else disk")

    if not TYPE_CHECKING:

        def __init__(self, **values: Any) -> None:
            fields = type(self).model_fields
            _refuse_unknown(values, fields, "a setting")
            variables = {name[len(_PREFIX) :].lower(): name for name in os.environ if name.upper().startswith(_PREFIX)}
            _refuse_unknown(variables, fields.keys() - {"features"}, "an environment variable", prefix=_PREFIX)
            try:
                super().__init__(**values)
            except SettingsError as error:
                raise ConfigurationError(
                    f"Expected environment variables that can be read, but {error.__cause__ or error} ({error}). "
                    "Write lists as `a,b` and tables as `a=1,b=2`."
                ) from error
            except ValidationError as error:
                raise _sentence(error, variables=True) from error

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Code first, then the environment; no other source."""
        return init_settings, _Environment(settings_cls)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Refuse to be pickled with the token in clear text; copies are made by other ways."""
        if self.metrics_token is not None:
            raise TypeError(
                "Expected settings without `metrics_token` to be pickled, got some with one, which would be readable "
                "in the result. Let every process read MODELWATCH_METRICS_TOKEN."
            )
        return super().__reduce_ex__(protocol)

    @field_validator("metrics_path", "page_path")
    @classmethod
    def _check_path(cls, path: str) -> str:
        if not re.fullmatch(r"/[\w\-./~]*[\w\-.~]", path):
            raise ValueError("it must be a plain path such as /metrics, without a slash at its end")
        return path

    @field_validator("metrics_host")
    @classmethod
    def _check_host(cls, host: str) -> str:
        if not re.fullmatch(r"[\w.:%-]+", host):
            raise ValueError("it must be an address or the name of a host, such as 127.0.0.1 or ::")
        return host

    @field_validator("dir", "learn_path")
    @classmethod
    def _check_file(cls, path: str | None) -> str | None:
        if path is not None and (not path or "\0" in path):
            raise ValueError("it must be a path")
        return path

    @field_validator("labels")
    @classmethod
    def _check_labels(cls, labels: Mapping[str, str]) -> Mapping[str, str]:
        for name in labels:
            if not _LABEL.match(name) or name.startswith("__") or name in _OWN_LABELS:
                raise ValueError(f"{name!r} cannot be the name of a constant label; choose another one")
        return labels

    @field_validator("buckets")
    @classmethod
    def _check_buckets(cls, buckets: Mapping[str, tuple[float, ...]]) -> Mapping[str, tuple[float, ...]]:
        for name, bounds in buckets.items():
            rising = all(a < b for a, b in itertools.pairwise(bounds))
            if not 1 <= len(bounds) <= 100 or not rising or not all(map(math.isfinite, bounds)):
                raise ValueError(f"the bounds of {name!r} must be 1 to 100 finite numbers that rise")
        return buckets

    @model_validator(mode="after")
    def _check_paths(self) -> Settings:
        if self.page and self.metrics_path in {self.page_path, f"{self.page_path}/data.json"}:
            raise ValueError(f"`page_path` ({self.page_path}) and `metrics_path` must not meet; choose another one")
        return self

    @model_validator(mode="after")
    def _check_windows(self) -> Settings:
        given = self.model_fields_set
        if self.window_rows is not None:
            for other in ("window_seconds", "window_slots", "max_window_seconds", "event_time"):
                if other in given:
                    raise ValueError(f"`window_rows` and `{other}` exclude each other; leave one out")
            if self.window_rows < self.min_rows:
                raise ValueError(f"`window_rows` ({self.window_rows}) must not be below `min_rows` ({self.min_rows})")
        elif "max_age_seconds" in given:
            raise ValueError("`max_age_seconds` belongs to `window_rows`; set that too, or leave it out")
        if self.max_window_seconds < self.window_seconds and "max_window_seconds" in given:
            raise ValueError(
                f"`max_window_seconds` ({self.max_window_seconds:g}) must not be below "
                f"`window_seconds` ({self.window_seconds:g})"
            )
        return self


def _refuse_unknown(given: Mapping[str, Any], known: Any, what: str, prefix: str = "") -> None:
    for name in given:
        if name not in known:
            shown = (prefix + name).upper() if prefix else name
            near = difflib.get_close_matches(name, list(known), n=1)
            hint = f"Did you mean {(prefix + near[0]).upper() if prefix else near[0]}?" if near else "Remove it."
            raise ConfigurationError(f"Expected the name of {what}, got {shown}, which does not exist. {hint}")


def _sentence(error: ValidationError, *, variables: bool) -> ConfigurationError:
    """One sentence on the first thing that is wrong, with its key, and its variable if it has one."""
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if message.startswith("Expected "):  # a sentence already: that of a rule within
        return ConfigurationError(
            message.replace("Expected `", f"Expected `{key}.", 1).replace("FeatureRule,", f"`{key}`,")
        )
    came = f"got {first['input']!r:.200}; " if key and first["loc"][0] != "metrics_token" else ""
    named = variables and key and first["loc"][0] != "features"
    variable = f" (in code, or {_PREFIX}{str(first['loc'][0]).upper()})" if named else ""
    where = f"`{key}`{variable}" if key else "settings that fit together"
    return ConfigurationError(f"Expected {where} to be usable, but {came}{message}. Change or remove it.")
