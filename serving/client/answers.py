"""The answers to many requests, in their order, with a limited number of them in flight."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pergola.serving.client.effects import END, Flow, Start, WaitFor
from pergola.serving.client.errors import InvalidInput
from pergola.serving.client.protocol import ModelProtocol, output_names
from pergola.serving.client.results import Prediction
from pergola.serving.wire import contract


class OrderedAnswers:
    """Takes requests as there is room for them. The first that fails raises when its turn comes.

    source: a flow of the next request's inputs, or END.
    """

    def __init__(
        self,
        protocol: ModelProtocol,
        source: Callable[[], Flow[Any]],
        *,
        in_flight: int,
        timeout_s: float | None,
        signature: str = contract.SERVING_DEFAULT,
        outputs: Iterable[str] = (),
    ) -> None:
        if in_flight < 1:
            raise InvalidInput(f"in_flight is {in_flight}, expected at least 1.")
        self._protocol, self._source, self._in_flight = protocol, source, in_flight
        self._signature, self._outputs, self._timeout_s = signature, output_names(outputs), timeout_s
        self._waiting: deque[Any] = deque()  # futures of answers, oldest first
        self._exhausted = False

    def next(self) -> Flow[Prediction | None]:
        """The next answer; None after the last."""
        while not self._exhausted and not self._is_due():
            inputs = yield from self._source()
            if inputs is END:
                self._exhausted = True
            else:
                yield from self._start(inputs)
        if not self._waiting:
            return None
        return (yield from self._protocol.explained(self._oldest(), self._signature))

    def rest(self) -> Flow[list[Prediction]]:
        """All answers that are left."""
        answers = []
        while (answer := (yield from self.next())) is not None:
            answers.append(answer)
        return answers

    def close(self) -> None:
        """Cancel what is in flight."""
        for future in self._waiting:
            future.cancel()

    def _is_due(self) -> bool:
        """Whether the oldest answer is given before another request is taken."""
        waiting = self._waiting
        return bool(waiting) and (waiting[0].done() or len(waiting) >= 4 * self._in_flight)

    def _start(self, inputs: Mapping[str, Any]) -> Flow[None]:
        while len(unfinished := [f for f in self._waiting if not f.done()]) >= self._in_flight:
            yield WaitFor(unfinished)
        flow = self._protocol.predict_briefly(inputs, self._signature, self._outputs, self._timeout_s)
        self._waiting.append((yield Start(flow)))

    def _oldest(self) -> Flow[Prediction]:
        if not self._waiting[0].done():
            yield WaitFor([self._waiting[0]])  # and close() cancels it meanwhile
        answer: Prediction = self._waiting.popleft().result()
        return answer
