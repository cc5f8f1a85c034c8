"""SHA-256 of the source code that a step reaches: when it changes, the step is done again.

Starts at a function of components/steps.py and follows imports of our own packages, inside
functions too, and data files that they name. Versions of the libraries whose results we keep are part of it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
from collections.abc import Iterator
from functools import cache
from importlib import metadata
from pathlib import Path

OURS = ("pergola.components", "pergola.serving")
LIBRARIES = ("great-expectations", "keras", "numpy", "pandas", "pillow", "scikit-learn", "tensorflow")
STEPS = "pergola.components.steps"


@cache
def of_step(name: str) -> str:
    """SHA-256 over the step's function, every module of ours that it reaches, and library versions."""
    source, tree = _parse(STEPS)
    function = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name)
    digest = hashlib.sha256((ast.get_source_segment(source, function) or "").encode())
    for module in sorted(_closure(set(_imports(function)))):
        digest.update(f"{module}\0{_source(module)}\0".encode())
        for file in _data_files(module):
            digest.update(file.read_bytes())
    for library in LIBRARIES:
        digest.update(f"{library}=={_version(library)}\n".encode())
    return digest.hexdigest()


def version() -> str:
    """pergola's version and a digest of all its source, short: which code made something."""
    digest = hashlib.sha256()
    for package in OURS:
        for path in sorted((_path(package) or Path()).parent.rglob("*.py")):
            digest.update(path.read_bytes())
    return f"{_version('pergola-ml')}+{digest.hexdigest()[:12]}"


def reached(name: str) -> set[str]:
    """Modules of ours that a step's function reaches."""
    _, tree = _parse(STEPS)
    function = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name)
    return _closure(set(_imports(function)))


def _closure(found: set[str]) -> set[str]:
    waiting = list(found)
    while waiting:
        for module in _module_imports(waiting.pop()):
            if module not in found and module != STEPS:
                found.add(module)
                waiting.append(module)
    return found


@cache
def _module_imports(module: str) -> tuple[str, ...]:
    return tuple(sorted(set(_imports(_parse(module)[1]))))


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if _is_ours(alias.name))
        elif isinstance(node, ast.ImportFrom) and node.module and _is_ours(node.module):
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if _path(inner) else node.module


def _is_ours(module: str) -> bool:
    return module.startswith(OURS)


@cache
def _path(module: str) -> Path | None:
    root = importlib.util.find_spec(module.split(".")[0])
    if root is None or not root.submodule_search_locations:
        return None
    base = Path(root.submodule_search_locations[0]).joinpath(*module.split(".")[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@cache
def _source(module: str) -> str:
    path = _path(module)
    return path.read_text(encoding="utf-8") if path else ""


def _data_files(module: str) -> list[Path]:
    """Templates and lists beside a module that its source names, or whose folder it names."""
    path, source = _path(module), _source(module)
    if path is None or path.name == "__init__.py":
        return []
    beside = (p for p in path.parent.rglob("*") if p.is_file() and p.suffix not in (".py", ".pyc"))
    return sorted(p for p in beside if p.name in source or f'"{p.parent.name}"' in source)


@cache
def _parse(module: str) -> tuple[str, ast.Module]:
    source = _source(module)
    return source, ast.parse(source)


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "absent"
