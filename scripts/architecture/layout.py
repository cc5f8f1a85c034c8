"""Where boxes and arrows go: the layered layout of Sugiyama, Tagawa and Toda (1981).

Importers stand above what they import. An arrow that passes a row gets a lane in it, rows are ordered
by barycenters for few crossings, and points then move towards their neighbours.
"""

from __future__ import annotations

import itertools
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping

from graph import Edge

BANDS = (("pergola",), ("pipelines",), ("components",), ("serving", "k8s"))  # from top to bottom
WIDTH, HEIGHT, LANE, GAP = 170, 56, 10, 20  # of boxes, of arrows that pass a row, and between them


def band(name: str) -> int:
    return next(i for i, tops in enumerate(BANDS) if name.split(".")[0] in tops)


def rows_of(boxes: Mapping[str, str], edges: set[Edge]) -> dict[str, int]:
    """Row of each box: bands from top to bottom, and in a band importers above what they import."""

    def depth(name: str) -> int:
        return max((1 + depth(of) for of, to in edges if to == name and band(of) == band(name)), default=0)

    depths = {name: depth(name) for name in boxes}
    first, rows = 0, {}
    for index in range(len(BANDS)):
        inside = [name for name in boxes if band(name) == index]
        rows.update({name: first + depths[name] for name in inside})
        first += 1 + max((depths[name] for name in inside), default=-1)
    return rows


def paths_of(edges: set[Edge], rows: dict[str, int]) -> tuple[dict[Edge, list[str]], dict[str, int]]:
    """The points of each edge, one a row, and the rows of all points: boxes and lanes between boxes."""
    points = dict(rows)
    paths = {}
    for of, to in sorted(edges):
        lanes = [f"{of}>{to}@{row}" for row in range(rows[of] + 1, rows[to])]
        points.update({lane: rows[of] + 1 + i for i, lane in enumerate(lanes)})
        paths[of, to] = [of, *lanes, to]
    return paths, points


def columns_of(paths: Mapping[Edge, list[str]], points: dict[str, int]) -> dict[str, float]:
    """Horizontal centre of each point: neighbours close to each other, nothing on top of anything."""
    neighbours = defaultdict(list)
    for path in paths.values():
        for upper, lower in itertools.pairwise(path):
            neighbours[lower].append((upper, -1))
            neighbours[upper].append((lower, 1))
    ordered = [[p for p in sorted(points) if points[p] == row] for row in range(max(points.values()) + 1)]
    place = {p: float(i) for row in ordered for i, p in enumerate(row)}
    best, fewest = ordered, sys.maxsize
    for sweep in range(24):
        side = 1 if sweep % 2 else -1
        for row in ordered[::-side]:
            centre = {p: [place[n] for n, s in neighbours[p] if s == side] for p in row}
            row.sort(key=lambda p: (p == "k8s", sum(centre[p]) / len(centre[p]) if centre[p] else place[p]))
            place.update({p: float(i) for i, p in enumerate(row)})
        crossings = count_crossings(paths, place, points)
        if crossings < fewest:
            best, fewest = [list(row) for row in ordered], crossings
    return spread(best, neighbours)


def count_crossings(
    paths: Mapping[Edge, list[str]], place: Mapping[str, float], points: Mapping[str, int]
) -> int:
    pieces = defaultdict(list)
    for path in paths.values():
        for upper, lower in itertools.pairwise(path):
            pieces[points[upper]].append((place[upper], place[lower]))
    return sum(
        (a[0] - b[0]) * (a[1] - b[1]) < 0
        for row in pieces.values()
        for i, a in enumerate(row)
        for b in row[:i]
    )


def spread(ordered: list[list[str]], neighbours: Mapping[str, list[tuple[str, int]]]) -> dict[str, float]:
    """Pull points towards their neighbours, in this order and without overlap."""
    x = {p: i * (WIDTH + GAP) - len(row) * WIDTH / 2 for row in ordered for i, p in enumerate(row)}
    for _ in range(200):
        middle = sum(x.values()) / len(x)
        for row in ordered:
            x.update(without_overlap(row, {p: pulled(p, neighbours[p], x, middle) for p in row}))
    return x


def pulled(point: str, neighbours: Iterable[tuple[str, int]], x: Mapping[str, float], middle: float) -> float:
    """The mean of a point's neighbours. Lane pulls lane twelve times as hard, so that arrows run straight."""
    pulls = [(x[n], 12 if "@" in point and "@" in n else 1) for n, _ in neighbours] or [(middle, 1)]
    return sum(at * weight for at, weight in pulls) / sum(weight for _, weight in pulls)


def without_overlap(row: list[str], wanted: Mapping[str, float]) -> dict[str, float]:
    """The mean of two packings: from the left, where points only move right, and the reverse."""
    left, right = dict(wanted), dict(wanted)
    for before, p in itertools.pairwise(row):
        left[p] = max(left[p], left[before] + (size(before) + size(p)) / 2 + GAP)
    for p, after in reversed(list(itertools.pairwise(row))):
        right[p] = min(right[p], right[after] - (size(p) + size(after)) / 2 - GAP)
    return {p: (left[p] + right[p]) / 2 for p in row}


def size(point: str) -> float:
    return LANE if "@" in point else WIDTH
