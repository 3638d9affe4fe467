"""The public names: what `modelwatch` promises, and that each says what it is."""

from __future__ import annotations
import __future__

import importlib.resources
import inspect
import types

import pytest

import modelwatch

# What users' code imports. A name may be added; taking one away breaks somebody.
PROMISED = {
    "ADWIN", "DriftDetector", "DriftReport", "FeatureRule", "ModelWatchError", "Monitor", "PageHinkley",
    "ReferenceProfile", "Settings", "SlidingWindowDetector", "chi_square", "compare", "hellinger", "instrument",
    "js_divergence", "kl_divergence", "ks_pvalue", "ks_statistic", "psi", "total_variation", "wasserstein",
}  # fmt: skip


def described():
    """(name, object) of every public class and function, and of the public methods and properties of the classes."""
    for name in modelwatch.__all__:
        thing = getattr(modelwatch, name)
        if inspect.isroutine(thing):
            yield name, thing
        elif inspect.isclass(thing):
            yield name, thing
            for attribute, value in vars(thing).items():
                if not attribute.startswith("_") and (
                    inspect.isroutine(value) or isinstance(value, property | classmethod | staticmethod)
                ):
                    yield f"{name}.{attribute}", getattr(thing, attribute)


def test_all_is_what_is_there():
    """`__all__` lists every public name of the package, once, and nothing else."""
    public = {
        name
        for name, value in vars(modelwatch).items()
        if not name.startswith("_")
        and not isinstance(value, types.ModuleType)
        and not isinstance(value, __future__._Feature)  # `annotations`, by `from __future__ import annotations`
    }
    assert set(modelwatch.__all__) - {"__version__"} == public
    assert len(modelwatch.__all__) == len(set(modelwatch.__all__))


def test_promised_names_are_there():
    """No name that users import has gone."""
    assert set(modelwatch.__all__) >= PROMISED


def test_star_import():
    """`from modelwatch import *` brings every name of `__all__`."""
    namespace = {}
    exec("from modelwatch import *", namespace)
    assert set(namespace) >= set(modelwatch.__all__)


@pytest.mark.parametrize(("name", "thing"), [pytest.param(*pair, id=pair[0]) for pair in described()])
def test_every_public_name_has_a_docstring(name, thing):
    """Every public class, function, method and property says what it is."""
    # A class inherits no docstring here: that of pydantic's BaseModel would hide that ours is missing.
    doc = (vars(thing).get("__doc__") if inspect.isclass(thing) else inspect.getdoc(thing)) or ""
    assert len(doc.split()) >= 3, f"{name} has no docstring"
    assert not doc.startswith(f"{name}("), f"{name} has only the docstring that dataclass made"


def test_the_package_is_typed():
    """Users' type checkers read the annotations (PEP 561)."""
    assert (importlib.resources.files("modelwatch") / "py.typed").is_file()
