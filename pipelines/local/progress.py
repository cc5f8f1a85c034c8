"""Progress of a run on a terminal: one line per step, and bars for long work."""

from __future__ import annotations

from typing import Any, TextIO

from pergola.components.outside_text import visible
from pergola.components.progress import Bar, silent

WIDTH = 19  # of the column with the names of steps


class Display:
    """Writes to `stream`; shows bars only on a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.is_terminal = stream.isatty()

    def line(self, text: str) -> None:
        """Print one line."""
        print(visible(text), file=self.stream, flush=True)

    def step(self, name: str, summary: str, seconds: float, *, reused: bool) -> None:
        """Print the line of a finished step."""
        how = "reused" if reused else f"{seconds:.1f} s"
        first, *more = summary.split("\n")
        self.line("\n".join([f"{name:<{WIDTH}}{first}  [{how}]", *(f"{'':<{WIDTH}}{line}" for line in more)]))

    def progress(
        self, *, total: int | None = None, desc: str = "", unit: str = "it", initial: int = 0
    ) -> Bar:
        """A progress bar, which disappears at the end."""
        if not self.is_terminal:
            return silent()
        from tqdm import tqdm

        label = f"{desc:<{WIDTH}}"
        bar: Any = tqdm(total=total, desc=label, unit=unit, initial=initial, leave=False, file=self.stream,
                        dynamic_ncols=True, mininterval=0.2)  # fmt: skip
        return bar


class SilentDisplay(Display):
    """Shows nothing: for tests, and for callers with a display of their own."""

    def __init__(self) -> None:
        import io

        super().__init__(io.StringIO())
