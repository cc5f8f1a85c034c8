"""What a person sees while a run works: a line a step, and bars on long work."""

from __future__ import annotations

from typing import Any, TextIO

from pergola.components.progress import Bar, silent

WIDTH = 18


class Show:
    """Writes to `stream`; bars only when it is a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.is_terminal = stream.isatty()

    def say(self, text: str) -> None:
        """One line."""
        print(text, file=self.stream, flush=True)

    def step(self, name: str, words: str, seconds: float, *, reused: bool) -> None:
        """The line of a step that is done."""
        how = "reused" if reused else f"{seconds:.1f} s"
        first, *more = words.split("\n")
        self.say("\n".join([f"{name:<{WIDTH}}{first}  [{how}]", *(f"{'':<{WIDTH}}{line}" for line in more)]))

    def progress(
        self, *, total: int | None = None, desc: str = "", unit: str = "it", initial: int = 0
    ) -> Bar:
        """A bar, which goes away when it is full."""
        if not self.is_terminal:
            return silent()
        from tqdm import tqdm

        label = f"{desc:<{WIDTH}}"
        bar: Any = tqdm(total=total, desc=label, unit=unit, initial=initial, leave=False, file=self.stream,
                        dynamic_ncols=True, mininterval=0.2)  # fmt: skip
        return bar


class Quiet(Show):
    """Shows nothing: for tests and for callers that have a display of their own."""

    def __init__(self) -> None:
        import io

        super().__init__(io.StringIO())
