"""SHA-256 of the code that a step depends on: when it changes, the step is done again.

A step declares its roots (pipelines/definition.py). From these modules imports of our own packages are
followed, inside functions too. What counts is the syntax tree without docstrings and comments; files that a
module names (templates, style sheets, TOML, protos) count by their bytes, libraries that it imports by their
version.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

OURS = ("pergola.components", "pergola.serving")
DISTRIBUTION = "pergola-ml"


def of_step(function: Callable[..., Any], roots: Iterable[str]) -> str:
    """SHA-256 over a step's function, all modules of ours that its roots reach, and their libraries."""
    return _of_step(function.__module__, function.__name__, tuple(roots))


def reached(roots: Iterable[str]) -> set[str]:
    """Modules of ours that are imported from these, themselves included."""
    found, waiting = set(roots), list(roots)
    while waiting:
        for module in _imports(waiting.pop()).ours:
            if module not in found:
                found.add(module)
                waiting.append(module)
    return found


def imported_by(function: Callable[..., Any]) -> set[str]:
    """Modules of ours that a function imports, and those that it calls in its own module."""
    return {
        name for part in _parts_of(function.__module__, function.__name__) for name in _Imports.of(part).ours
    }


def libraries(roots: Iterable[str]) -> set[str]:
    """Top-level names of other people's packages that the modules reached from these import."""
    return {name for module in reached(roots) for name in _imports(module).others}


@cache
def version() -> str:
    """pergola's version and a digest of all its source, short: which code made something."""
    digest = hashlib.sha256()
    for package in OURS:
        for path in sorted((_path(package) or Path()).parent.rglob("*.py")):
            digest.update(path.read_bytes())
    return f"{metadata.version(DISTRIBUTION)}+{digest.hexdigest()[:12]}"


@cache
def _of_step(module: str, name: str, roots: tuple[str, ...]) -> str:
    digest = hashlib.sha256()
    for part in _parts_of(module, name):
        digest.update(_normal(part).encode())
    for reached_module in sorted(reached(roots)):
        digest.update(f"{reached_module}\0{_digest(reached_module)}\0".encode())
    for library in sorted(libraries(roots)):
        digest.update(f"{library}=={_library_version(library)}\n".encode())
    return digest.hexdigest()


@cache
def _digest(module: str) -> str:
    """Of a module's syntax tree, the packages around it, and the files that it names."""
    digest = hashlib.sha256()
    parts = module.split(".")
    for name in (*(".".join(parts[:end]) for end in range(2, len(parts))), module):
        digest.update(_normal(_tree(name)).encode())
    for file in _data_files(module):
        digest.update(f"{file.name}\0".encode() + file.read_bytes())
    return digest.hexdigest()


class _Imports:
    """What a piece of code imports when it runs: modules of ours, and others by their first name."""

    def __init__(self, ours: Iterable[str], others: Iterable[str]) -> None:
        self.ours, self.others = tuple(sorted(set(ours))), tuple(sorted(set(others)))

    @classmethod
    def of(cls, tree: ast.AST) -> _Imports:
        names = list(_names(tree))
        others = {name.partition(".")[0] for name in names if not name.startswith("pergola")}
        return cls((n for n in names if n.startswith(OURS)), others - set(sys.stdlib_module_names))


@cache
def _imports(module: str) -> _Imports:
    return _Imports.of(_tree(module))


def _names(tree: ast.AST) -> Iterator[str]:
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner.startswith(OURS) and _path(inner) else node.module


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """The tree and its statements, without their expressions, and without what only type checkers run."""
    yield tree
    if isinstance(tree, ast.If) and "TYPE_CHECKING" in ast.unparse(tree.test):
        return
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
        for node in getattr(tree, field, ()):
            yield from _statements(node)


@cache
def _tree(module: str) -> ast.Module:
    """Without docstrings. Empty for a package without an __init__.py."""
    path = _path(module)
    tree = ast.parse(path.read_text(encoding="utf-8") if path else "")
    for node in _statements(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                node.body = node.body[1:] or [ast.Pass()]
    return tree


def _parts_of(module: str, name: str) -> list[ast.AST]:
    """A step's function, and what it names of its own module: functions, classes, constants, and so on.

    The module is ours, or wherever a pipeline of somebody else's has its steps.
    """
    if module.startswith(OURS):
        body = _tree(module).body
    else:
        body = ast.parse(inspect.getsource(sys.modules[module])).body
    defined = {key: node for node in body for key in _defines(node)}
    found, waiting = {name: defined[name]}, [defined[name]]
    while waiting:
        for used in _uses(waiting.pop()) & defined.keys() - found.keys():
            found[used] = defined[used]
            waiting.append(defined[used])
    return [found[key] for key in sorted(found)]


def _uses(node: ast.AST) -> set[str]:
    """Names that a definition reads without binding them itself."""
    names = [n for n in ast.walk(node) if isinstance(n, ast.Name)]
    bound = {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)}
    bound |= {n.id for n in names if not isinstance(n.ctx, ast.Load)}
    return {n.id for n in names} - bound


def _defines(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    if isinstance(node, ast.Assign):
        return [name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)]
    return []


def _normal(tree: ast.AST) -> str:
    """One text for equal code, whatever its comments, line breaks and quotes."""
    return ast.unparse(tree)


@cache
def _path(module: str) -> Path | None:
    root = importlib.util.find_spec(module.partition(".")[0])
    if root is None or not root.submodule_search_locations:
        return None
    base = Path(root.submodule_search_locations[0]).joinpath(*module.split(".")[1:])
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


def _data_files(module: str) -> list[Path]:
    """Templates and tables beside a module that its source names, or whose folder it names."""
    path = _path(module)
    if path is None or path.name == "__init__.py":
        return []
    source = path.read_text(encoding="utf-8")
    beside = (p for p in path.parent.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc"))
    return sorted(p for p in beside if p.name in source or f'"{p.parent.name}"' in source)


@cache
def _library_version(name: str) -> str:
    """Of the distribution that a package belongs to; "absent" when it is not installed."""
    for distribution in _distributions().get(name, [name]):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return "absent"


@cache
def _distributions() -> dict[str, list[str]]:
    return {name: sorted(set(found)) for name, found in metadata.packages_distributions().items()}
