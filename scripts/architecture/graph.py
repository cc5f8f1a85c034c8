"""Which package imports which, read from the code."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import grimp

ROOT = Path(__file__).resolve().parents[2]
TOPS = ("pergola", "pipelines", "components", "serving", "k8s")

Edge = tuple[str, str]


def read() -> tuple[dict[str, str], Counter[Edge]]:
    """Summaries of the boxes, and how many imports lead from box to box."""
    graph = grimp.build_graph("pergola", exclude_type_checking_imports=True, cache_dir=None)
    direct = {module: graph.find_modules_directly_imported_by(module) for module in sorted(graph.modules)}
    packages = {".".join(m.split(".")[:3]) for m in direct if m.count(".") > 2}

    def package(module: str) -> str:
        name = ".".join(module.split(".")[:3])
        return name if name in packages else ""

    def box(module: str) -> str:
        parts = module.split(".")[1:]
        if not parts or parts[0] not in TOPS:
            return "pergola"
        alone = len(parts) == 2 and any(package(to) for to in direct[module])
        return ".".join(parts[:2]) if package(module) or alone else parts[0]

    edges = Counter((box(m), box(to)) for m, imported in direct.items() for to in imported)
    summaries = {}
    for module in direct:
        name = box(module)
        if module == f"pergola.{name}" or module == name:
            summaries[name] = summary(module)
    for name in {"components", "pipelines", "serving"} & set(summaries):
        summaries[name] = ", ".join(
            sorted(m.rsplit(".", 1)[1] for m in direct if m.count(".") == 2 and box(m) == name)
        )
    boxes = {name: text for name, text in summaries.items() if text}
    return boxes, Counter(
        {e: n for e, n in edges.items() if e[0] != e[1] and e[1] != "pergola" and set(e) <= set(boxes)}
    )


def summary(module: str) -> str:
    """First sentence of a module's docstring."""
    path = ROOT.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = " ".join(
        (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0].split()
    )
    return text.split(". ")[0].split(": ")[0].rstrip(".")


def below(edges: set[Edge], start: str) -> set[str]:
    """Whatever can be reached from a box, itself left out unless it lies on a cycle."""
    found: set[str] = set()
    front = {start}
    while front:
        front = {to for of, to in edges if of in front} - found
        found |= front
    return found


def without_cycles(counts: Counter[Edge]) -> tuple[set[Edge], set[Edge]]:
    """Edges that form no cycle, and those that had to go: of each cycle the one with the fewest imports."""
    kept, cyclic = set(counts), set()
    while found := [edge for edge in kept if edge[0] in below(kept, edge[1])]:
        weakest = min(found, key=lambda edge: (counts[edge], edge))
        kept.remove(weakest)
        cyclic.add(weakest)
    return kept, cyclic


def reduced(edges: set[Edge]) -> set[Edge]:
    """Edges that no longer path implies."""
    return {(of, to) for of, to in edges if to not in below(edges - {(of, to)}, of)}
