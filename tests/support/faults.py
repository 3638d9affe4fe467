"""Places in the library where a fault can be injected, all of them, without a list.

The package is read through a loader that puts a *point* at the beginning of each of its functions and at each call
within them. A point counts how often it is passed, and raises when it is told to.
"""

from __future__ import annotations

import ast
import builtins
import errno
import importlib.abc
import importlib.machinery
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

PACKAGE = "modelwatch"
_ENTER, _CALL = "__fault_entered__", "__fault_called__"
ERRORS: dict[str, Callable[[], Exception]] = {
    "RuntimeError": lambda: RuntimeError("injected"),
    "MemoryError": MemoryError,
    "ENOSPC": lambda: OSError(errno.ENOSPC, "injected"),
    "RecursionError": lambda: RecursionError("injected"),
    "ValueError": lambda: ValueError("injected"),
}


class Point(NamedTuple):
    """A place where a fault can be injected: the beginning of a function, or a call within it."""

    module: str
    function: str
    line: int
    what: str  # source of what is called; empty for the beginning


class Points:
    """All points of the modules that were loaded, how often each was passed, and the one that fails.

    Notes
    -----
    Threads: any number; with two at once the Nth call is that of either.
    """

    def __init__(self) -> None:
        self.known: list[Point] = []
        self.passed: Counter[int] = Counter()
        self.fired = 0
        self._armed = -1
        self._error: Callable[[], Exception] = RuntimeError
        self._left = 0
        self._stuck = False

    def add(self, point: Point) -> int:
        """Number of a new point."""
        self.known.append(point)
        return len(self.known) - 1

    def arm(self, number: int, error: Callable[[], Exception], nth: int, *, stuck: bool) -> None:
        """Let a point fail at its `nth` call from now, and if it is stuck at all later ones."""
        self._error, self._left, self._stuck, self.fired = error, nth, stuck, 0
        self._armed = number

    def disarm(self) -> None:
        """Let nothing fail."""
        self._armed = -1

    def entered(self, number: int) -> None:
        """A point is passed: count it, and raise if it is its turn."""
        self.passed[number] += 1
        if number == self._armed:
            self._left -= 1
            if self._left <= 0:
                if not self._stuck:
                    self._armed = -1
                self.fired += 1
                raise self._error()

    def called(self, number: int, function: Any) -> Any:
        """What is called at a point."""
        self.entered(number)
        return function


class _Transformer(ast.NodeTransformer):
    """Puts points into the functions of a module."""

    def __init__(self, module: str, points: Points) -> None:
        self._module, self._points = module, points
        self._names: list[str] = []
        self._depth = 0  # of functions: what a module or a class does when it is made is no request's

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        self._names.append(node.name)
        depth, self._depth = self._depth, 0
        self.generic_visit(node)
        self._depth = depth
        self._names.pop()
        return node

    def visit_FunctionDef(self, node: Any) -> ast.AST:
        node.decorator_list = [self.visit(decorator) for decorator in node.decorator_list]
        self._names.append(node.name)
        self._depth += 1
        start = 1 if ast.get_docstring(node, clean=False) is not None else 0
        guards = _guards(node.body[start:])
        body = [self.visit(statement) for statement in node.body[start:]]
        if not guards:
            body.insert(0, ast.copy_location(ast.Expr(self._entry(node)), node))
        node.body = [*node.body[:start], *body]
        self._depth -= 1
        self._names.pop()
        return node

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 - the name is ast's

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        self._names.append("<lambda>")
        self._depth += 1
        both = ast.Tuple([self._entry(node), self.visit(node.body)], ast.Load())
        node.body = ast.Subscript(both, ast.Constant(1), ast.Load())
        self._depth -= 1
        self._names.pop()
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        what = ast.unparse(node.func)
        self.generic_visit(node)
        if self._depth:
            number = self._points.add(Point(self._module, ".".join(self._names), node.lineno, what))
            node.func = _calling(_CALL, ast.Constant(number), node.func)
        return node

    def _entry(self, node: Any) -> ast.Call:
        return _calling(
            _ENTER, ast.Constant(self._points.add(Point(self._module, ".".join(self._names), node.lineno, "")))
        )


def _guards(body: list[ast.stmt]) -> bool:
    """Whether all that a function does stands in a `try` that swallows what fails: then only what it calls can."""
    if len(body) != 1 or not isinstance(only := body[0], ast.Try):
        return False
    caught = [handler for handler in only.handlers if ast.unparse(handler.type or ast.Constant(0)) == "Exception"]
    return any(".swallow(" in ast.unparse(handler) for handler in caught)


def _calling(name: str, *arguments: ast.expr) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), list(arguments), [])


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles a module with points in it; nothing of it is cached."""

    points: Points

    def get_code(self, fullname: str) -> Any:
        path = self.get_filename(fullname)
        tree = ast.parse(self.get_data(path), path)
        tree = _Transformer(fullname.removeprefix(PACKAGE + "."), self.points).visit(tree)
        return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the package where it is found anyway, and has it loaded with points."""

    def __init__(self, points: Points) -> None:
        self._loader = type("Loader", (_Loader,), {"points": points})

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        """As of a path entry finder."""
        if fullname.partition(".")[0] != PACKAGE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = self._loader(spec.loader.name, spec.loader.path)
        return spec


def install(points: Points) -> None:
    """Have the package loaded with points from now on; it must not have been imported before."""
    assert PACKAGE not in sys.modules, f"{PACKAGE} is there already, without points"
    vars(builtins).update({_ENTER: points.entered, _CALL: points.called})
    sys.meta_path.insert(0, _Finder(points))
