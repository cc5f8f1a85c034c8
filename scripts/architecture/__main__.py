"""Draws docs/images/architecture.svg, the graph of imports between packages. scripts/reference runs this.

A box is a package; loose modules that import no package share one. Arrows are the transitive reduction of the
imports: a box may use whatever lies below it along the arrows. Imports that close a cycle are dashed and red.
"""

from __future__ import annotations

import sys
from html import escape
from textwrap import wrap

from graph import ROOT, TOPS, read, reduced, without_cycles
from layout import HEIGHT, WIDTH, band, columns_of, paths_of, rows_of, size

PICTURE = ROOT / "docs" / "images" / "architecture.svg"
FILLS = dict(zip(TOPS, ("#ece5fa", "#fdecd8", "#dff2ec", "#e1ecfb", "#f8e3e6"), strict=True))
Point = tuple[float, float]  # the middle of a box's upper side


ROW, FRAME = HEIGHT + 40, 26  # height of a row, and what the frame of a top-level folder adds

HEAD = """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">
<!-- Written by scripts/reference from the imports. Do not edit. -->
<title>Packages and what they import</title>
<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">
<path d="M0 .6 7.4 4 0 7.4z" fill="#64748b"/></marker></defs>
<style>
text {{ font: 10.5px system-ui, Helvetica, Arial, sans-serif; text-anchor: middle; fill: #475569 }}
.name {{ font-size: 13px; font-weight: 600; fill: #0f172a }}
.top {{ font-size: 14px; font-weight: 600; fill: #334155; text-anchor: start }}
.box {{ fill: #fff; stroke: #94a3b8 }}
.arrow, .cycle {{ fill: none; stroke: #64748b; stroke-width: 1.3px; marker-end: url(#tip) }}
.cycle {{ stroke: #dc2626; stroke-dasharray: 5 4 }}
</style>
<rect width="100%" height="100%" fill="#fff"/>
"""


def draw() -> str:
    """The picture as SVG."""
    boxes, counts = read()
    kept, cyclic = without_cycles(counts)
    edges = reduced(kept)
    rows = rows_of(boxes, edges)
    paths, points = paths_of(edges, rows)
    x = columns_of(paths, points)
    left = min(x[p] - size(p) / 2 for p in points) - 40
    bands = {row: band(name) for name, row in rows.items()}
    at = {p: (x[p] - left, 56.0 + row * ROW + FRAME * bands[row]) for p, row in points.items()}
    width = max(at[p][0] + size(p) / 2 for p in points) + 40
    parts = [frame(top, [at[b] for b in boxes if b.split(".")[0] == top], width) for top in TOPS]
    parts += [arrow([at[p] for p in path]) for path in paths.values()]
    parts += [cycle(of, to, at[of], at[to]) for of, to in sorted(cyclic)]
    parts += [drawn(name, boxes[name], at[name]) for name in sorted(boxes)]
    height = max(y for _, y in at.values()) + HEIGHT + 34
    return HEAD.format(width=round(width), height=round(height)) + "\n".join(parts) + "\n</svg>\n"


def frame(top: str, inside: list[Point], width: float) -> str:
    """A coloured area behind the packages of a top-level folder."""
    beside = top in ("serving", "k8s")
    left = min(x for x, _ in inside) - WIDTH / 2 - 14 if beside else 14
    right = max(x for x, _ in inside) + WIDTH / 2 + 14 if beside else width - 14
    upper, lower = min(y for _, y in inside) - 30, max(y for _, y in inside) + HEIGHT + 14
    area = f'x="{left:.0f}" y="{upper:.0f}" width="{right - left:.0f}" height="{lower - upper:.0f}"'
    label = f'<text class="top" x="{left + 12:.0f}" y="{upper + 20:.0f}">{top}/</text>'
    return f'<rect {area} rx="10" fill="{FILLS[top]}"/>{label}'


def drawn(name: str, text: str, at: Point) -> str:
    """A box with its name and its summary, all of which shows when the mouse rests on it."""
    x, y = at
    alone = "." in name or name in ("pergola", "k8s")
    lines = [(18, "name", name.rsplit(".", 1)[-1] if alone else "other modules")]
    lines += [
        (33 + 13 * i, "text", line) for i, line in enumerate(wrap(text, 30, max_lines=2, placeholder=" …"))
    ]
    texts = "".join(
        f'<text class="{kind}" x="{x:.0f}" y="{y + down:.0f}">{escape(line)}</text>'
        for down, kind, line in lines
    )
    area = f'x="{x - WIDTH / 2:.0f}" y="{y:.0f}" width="{WIDTH}" height="{HEIGHT}"'
    return f'<g><title>{escape(f"{name}: {text}")}</title><rect class="box" {area} rx="6"/>{texts}</g>'


def arrow(points: list[Point]) -> str:
    """A smooth line from the lower side of a box to the upper side of another, through its lanes."""
    (x, y), *others = points
    y += HEIGHT
    steps = [f"M{x:.0f} {y:.0f}"]
    for to_x, to_y in others:
        half = (to_y - y) / 2
        steps.append(f"C{x:.0f} {y + half:.0f} {to_x:.0f} {to_y - half:.0f} {to_x:.0f} {to_y:.0f}")
        x, y = to_x, to_y + HEIGHT
        steps.append(f"V{y:.0f}")
    return f'<path class="arrow" d="{"".join(steps[:-1])}"/>'


def cycle(of: str, to: str, start: Point, end: Point) -> str:
    """An import against the direction of all others: an arc at the right of two boxes."""
    (x, y), (to_x, to_y) = ((x + WIDTH / 2, y + HEIGHT / 2) for x, y in (start, end))
    far = max(x, to_x) + 46
    line = f"M{x:.0f} {y:.0f}C{far:.0f} {y:.0f} {far:.0f} {to_y:.0f} {to_x:.0f} {to_y:.0f}"
    return f'<path class="cycle" d="{line}"><title>{of} imports {to}: a cycle</title></path>'


def main(arguments: list[str]) -> int:
    """Write the picture, or with --check compare it; returns the exit status."""
    new = draw()
    if PICTURE.is_file() and PICTURE.read_text(encoding="utf-8") == new:
        return 0
    if "--check" in arguments:
        sys.stderr.write(
            f"{PICTURE.relative_to(ROOT)} does not show today's imports. Run scripts/reference.\n"
        )
        return 1
    PICTURE.write_text(new, encoding="utf-8")
    sys.stdout.write(f"wrote {PICTURE.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
