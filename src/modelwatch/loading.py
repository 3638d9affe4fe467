"""The app that "module:app" names, as servers have it."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import traceback
from typing import Any

from .exceptions import ConfigurationError, ModelWatchError


def app_at(target: str) -> Any:
    """The app that "module:app" names; what `module:create_app()` names is called. Within middleware the app itself.

    The current directory is looked in first, and is then taken off `sys.path` again.

    Raises
    ------
    ConfigurationError
        The text is none such, there is no such module or app, or the user's code fails.
    """
    return _unwrapped(_found(target), target)


def _found(target: str) -> Any:
    module_name, colon, path = target.partition(":")
    path, calls, after = path.partition("()")
    names = path.split(".")
    if not colon or after or not all(name.isidentifier() for name in (*module_name.split("."), *names)):
        raise ConfigurationError(
            f"Expected an app as `module:app` (or `module:create_app()`), got {target!r:.200}. "
            "Write it as for uvicorn: service.py with `app = FastAPI()` is `service:app`."
        )
    found = _imported(module_name)
    for name in names:
        if not hasattr(found, name):
            raise ConfigurationError(
                f"Expected {module_name!r} to have {path!r}, got no {name!r} in it.{_hint(module_name)} "
                "Name the variable that holds the app."
            )
        found = getattr(found, name)
    return _called(found, target) if calls else found


def _imported(module_name: str) -> Any:
    directory = os.getcwd()
    sys.path.insert(0, directory)
    try:
        return importlib.import_module(module_name)
    except ModelWatchError:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigurationError(
                f"Expected a module {module_name!r}, got none in {directory} or among what is installed. "
                "Run the doctor where you start the service."
            ) from error
        raise _failed(f"to import {module_name!r}", error) from error
    except (Exception, SystemExit) as error:
        raise _failed(f"to import {module_name!r}", error) from error
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(directory)


def _called(factory: Any, target: str) -> Any:
    try:
        return factory()
    except ModelWatchError:
        raise
    except (Exception, SystemExit) as error:
        raise _failed(f"to call {target!r}", error) from error


def _failed(doing: str, error: BaseException) -> ConfigurationError:
    """Says what the user's code raised, and in which line of which file."""
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    # What the user wrote says more than the package that it calls.
    own = [place for place in frames if place[0].startswith(os.getcwd()) and "site-packages" not in place[0]]
    where = "".join(f" in {name}, line {line}" for name, line in (own or frames)[-1:])
    if isinstance(error, SyntaxError):
        where = f" in {error.filename}, line {error.lineno}"
    return ConfigurationError(
        f"Expected {doing}, but it raised {type(error).__name__}: {error!s:.300}{where}. Mend that first."
    )


def _unwrapped(found: Any, target: str) -> Any:
    """The app within the middleware that is wrapped around it, if any."""
    app = found
    for _ in range(16):
        if _is_app(app):
            return app
        app = getattr(app, "app", None)
    factory = callable(found) and not isinstance(found, type) and not hasattr(found, "app")
    remedy = f"If it makes the app, write {target + '()'!r}." if factory else "Name the variable that holds the app."
    raise ConfigurationError(
        f"Expected {target!r} to be a FastAPI or Starlette app, got {type(found).__name__}."
        f"{_hint(target.partition(':')[0])} {remedy}"
    )


def _is_app(value: Any) -> bool:
    return hasattr(value, "build_middleware_stack") and not isinstance(value, type)


def _hint(module_name: str) -> str:
    module = sys.modules.get(module_name)
    apps = [f"{module_name}:{name}" for name, value in vars(module).items() if _is_app(value)] if module else []
    return f" Did you mean {' or '.join(apps[:3])}?" if apps else ""
