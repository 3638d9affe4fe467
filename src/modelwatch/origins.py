"""Where a reference comes from: an object, a file, or what was learnt before. Checked against the settings."""

from __future__ import annotations

import difflib
import os
from os import PathLike

from .exceptions import ConfigurationError
from .files import ReferenceProfile
from .settings import Settings

Reference = ReferenceProfile | str | PathLike[str]
"""What users may give: the profile, or the path of one."""
LEARN = "learn"


def taken(reference: Reference, settings: Settings) -> tuple[ReferenceProfile, str]:
    """The profile, and its source: "object" or "file".

    Raises
    ------
    ReferenceFileError
        The file cannot be read.
    ConfigurationError
        `settings.features` has a rule for a feature that the reference does not have.
    """
    if isinstance(reference, ReferenceProfile):
        profile, source = reference, "object"
    elif not isinstance(reference, str | PathLike):
        raise ConfigurationError(
            f'Expected a ReferenceProfile, the path of one, "learn" or None, got {type(reference).__name__}. '
            "Profile a table first: ReferenceProfile.fit(table)."
        )
    else:
        profile, source = ReferenceProfile.load(reference, max_bytes=settings.max_reference_bytes), "file"
    unknown = [name for name in settings.features if name not in profile.names]
    if unknown:
        near = difflib.get_close_matches(unknown[0], profile.names, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else "Remove the rule."
        raise ConfigurationError(
            f"Expected rules in `features` for features of the reference, {list(profile.names)}, got "
            f"{unknown[0]!r}. {hint}"
        )
    return profile, source


def learnt_before(settings: Settings) -> str | None:
    """The path of the reference that an earlier run learnt; None if there is none.

    Raises
    ------
    ConfigurationError
        It could not be written where `learn_path` says.
    """
    path = settings.learn_path
    if path is None or os.path.lexists(path):
        return path
    if not os.access(os.path.dirname(path) or ".", os.W_OK):
        raise ConfigurationError(
            f"Expected `learn_path` in a directory that exists and can be written, got {path!r}. Choose another one."
        )
    return None
