"""The app that "module:app" names."""

from __future__ import annotations

import sys

import pytest
from fastapi import FastAPI

from modelwatch.exceptions import ConfigurationError
from modelwatch.loading import app_at


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module into the current directory: its name, which no other test has."""
    monkeypatch.chdir(tmp_path)
    before, path = set(sys.modules), list(sys.path)
    written = []

    def make(source):
        name = f"loaded_{abs(hash(tmp_path))}_{len(written)}"
        (tmp_path / f"{name}.py").write_text(source)
        written.append(name)
        return name

    yield make
    assert sys.path == path
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in written:
            del sys.modules[name]


APP = "from fastapi import FastAPI\napp = FastAPI()\n"


def test_a_variable(module):
    """`module:app` is what stands there, looked for in the current directory, and `module:holder.app` too."""
    name = module(f"{APP}class holder:\n    app = app\n")
    assert isinstance(app_at(f"{name}:app"), FastAPI)
    assert app_at(f"{name}:holder.app") is app_at(f"{name}:app")


def test_a_factory(module):
    """`module:create_app()` is what the function makes."""
    name = module("from fastapi import FastAPI\ndef create_app():\n    return FastAPI(title='made')\n")
    assert app_at(f"{name}:create_app()").title == "made"


def test_an_app_within_middleware(module):
    """Of an app that is wrapped in middleware the app itself is found."""
    name = module(f"{APP}from starlette.middleware.cors import CORSMiddleware\nwrapped = CORSMiddleware(app)\n")
    assert isinstance(app_at(f"{name}:wrapped"), FastAPI)


@pytest.mark.parametrize("target", ["", "service", ":app", "service:", "a b:c", "service:app()x", "service:f()()"])
def test_texts_that_name_nothing(target):
    """What is no `module:app` is refused with an example."""
    with pytest.raises(ConfigurationError, match="Expected an app as `module:app`"):
        app_at(target)


@pytest.mark.parametrize("target", ["no_such_module_here:app", "no_such_module_here.service:app"])
def test_no_such_module(target):
    """A module that is not there is told from one that imports what is not there."""
    with pytest.raises(ConfigurationError, match="Expected a module 'no_such_module_here"):
        app_at(target)


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("import no_such_module_here", r"ModuleNotFoundError: No module named 'no_such_module_here' in .*py, line 1\."),
        ("\ndef f(:", r"SyntaxError: .* line 2\."),
        ("x = 1\n1 / 0", r"ZeroDivisionError: division by zero in .*py, line 2\."),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("import json\njson.loads('{')", r"JSONDecodeError: .* in .*loaded_\w+\.py, line 2\."),
    ],
)
def test_modules_that_fail(module, source, what):
    """What a module raises when it is imported is told, with file and line, also if it would exit."""
    name = module(source)
    with pytest.raises(ConfigurationError, match=f"Expected to import '{name}', but it raised {what}"):
        app_at(f"{name}:app")


def test_a_factory_that_fails(module):
    """So is what a factory raises."""
    name = module("def make():\n    raise KeyError('model.bin')\n")
    with pytest.raises(ConfigurationError, match=r"raised KeyError: 'model.bin' in .*py, line 2\."):
        app_at(f"{name}:make()")


def test_errors_of_the_library_pass(module):
    """An error of ours says what to do already: it is not wrapped in another."""
    name = module("import modelwatch\nmodelwatch.Settings(min_rows=0)\n")
    with pytest.raises(ConfigurationError, match="`min_rows`") as caught:
        app_at(f"{name}:app")
    assert "import" not in str(caught.value)


def test_what_is_no_app(module):
    """What stands there and is no app is named, with the apps of the module, or how to call a factory."""
    name = module(f"{APP}model = 3\ndef make():\n    return app\n")
    with pytest.raises(ConfigurationError, match=rf"got int\. Did you mean {name}:app\?"):
        app_at(f"{name}:model")
    with pytest.raises(ConfigurationError, match=rf"write '{name}:make\(\)'"):
        app_at(f"{name}:make")
    with pytest.raises(ConfigurationError, match="got type"):
        app_at("fastapi:FastAPI")
    with pytest.raises(ConfigurationError, match=rf"got no 'api' in it\. Did you mean {name}:app\?"):
        app_at(f"{name}:api")
