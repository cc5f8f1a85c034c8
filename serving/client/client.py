"""A client of TensorFlow Serving that needs no TensorFlow.

    from pergola.serving.client import Client

    with Client("dns:///leaves.models.svc:8500", model="leaves") as client:
        answer = client.classify_images(["a.jpg", "b.png"])
        answer.labels, answer.probability, answer.version

Every call has a deadline. It is retried while time is left when the server is unreachable or overloaded, and
calls rotate over all addresses behind the name. See serving/client/errors.py for the errors.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import grpc

from pergola.serving.client.answers import OrderedAnswers
from pergola.serving.client.blocking_transport import BlockingTransport
from pergola.serving.client.channel import Connection
from pergola.serving.client.effects import iterate, take
from pergola.serving.client.protocol import ModelProtocol
from pergola.serving.client.results import (
    Classification,
    Metadata,
    Prediction,
    ServedModel,
    VersionStatus,
)
from pergola.serving.client.retry import Retry
from pergola.serving.wire import contract

if TYPE_CHECKING:
    from pergola.serving.client.request_log import ClientLog


class Client:
    """A client of one served model. Thread-safe; close it, or use it in a `with` block.

    address: "host:8500", "dns:///name:8500" (all addresses of the name in turn), "unix:/path", or a
    list of IP addresses with ports.  version or label: the one to use instead of the newest.
    timeout_s: for a call with its retries; keepalive is derived from it, so allow for your longest call.
    log: where answered requests are recorded; closing the client does not close it.
    token: sent as "authorization: Bearer …"; a function is called for each request. Short for that of
    `connection`.
    """

    def __init__(
        self,
        address: str | Sequence[str],
        *,
        model: str,
        version: int | None = None,
        label: str | None = None,
        timeout_s: float = 30.0,
        retry: Retry | None = None,
        connection: Connection | None = None,
        log: ClientLog | None = None,
        token: str | Callable[[], str] | None = None,
    ) -> None:
        self._protocol = ModelProtocol(
            address, model, version, label, timeout_s, retry, connection, log, token
        )
        self._transport = BlockingTransport(self._protocol.open_channel(grpc))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel the calls in flight and close the connection."""
        self._protocol.close()
        self._transport.close()

    def at(self, *, model: str | None = None, version: int | None = None, label: str | None = None) -> Self:
        """The same client for another model, version or label, over the same connection.

        Closing either closes both.
        """
        other = copy.copy(self)
        other._protocol = self._protocol.at(model, version, label)
        return other

    def predict(
        self,
        inputs: Mapping[str, Any],
        *,
        signature: str = contract.SERVING_DEFAULT,
        outputs: Iterable[str] = (),
        timeout_s: float | None = None,
    ) -> Prediction:
        """The outputs of a signature for `inputs`: name -> array, number, bytes, text or nested lists.

        outputs: names of the outputs to return; all when empty. Raises ClientError; for a rejected input it
        lists what the signature takes.
        """
        return self._transport.run(self._protocol.predict(inputs, signature, outputs, timeout_s))

    def predict_async(
        self,
        inputs: Mapping[str, Any],
        *,
        signature: str = contract.SERVING_DEFAULT,
        outputs: Iterable[str] = (),
        timeout_s: float | None = None,
    ) -> Future[Prediction]:
        """A future of the result of `predict`, with the same deadline and retries.

        It can be cancelled, and awaited with `asyncio.wrap_future`. Its callbacks run on gRPC's thread:
        keep them short.
        """
        return self._transport.start(self._protocol.predict_briefly(inputs, signature, outputs, timeout_s))

    def predict_many(
        self,
        requests: Iterable[Mapping[str, Any]],
        *,
        signature: str = contract.SERVING_DEFAULT,
        outputs: Iterable[str] = (),
        in_flight: int = 16,
        timeout_s: float | None = None,
    ) -> Iterator[Prediction]:
        """The answers to many requests, in their order, with up to `in_flight` of them at a time.

        Requests are consumed as capacity allows, so they may come from a generator. The first one that
        fails raises when its turn comes, and the rest is cancelled.
        """
        answers = OrderedAnswers(
            self._protocol,
            partial(take, iterate(requests)),
            in_flight=in_flight,
            timeout_s=timeout_s,
            signature=signature,
            outputs=outputs,
        )
        try:
            while (answer := self._transport.run(answers.next())) is not None:
                yield answer
        finally:
            answers.close()

    def classify_images(
        self,
        images: Iterable[Any],
        *,
        batch_size: int = 32,
        in_flight: int = 4,
        timeout_s: float | None = None,
    ) -> Classification:
        """The classes of images, all predicted by one version of the model.

        images: paths, bytes of image files, or uint8 arrays (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).
        They are turned upright as their EXIF orientation says and sent encoded, `batch_size` at a time.
        """
        from pergola.serving.client.classify import classify

        return self._transport.run(classify(self._protocol, images, batch_size, in_flight, timeout_s))

    def status(self, *, timeout_s: float | None = None) -> tuple[VersionStatus, ...]:
        """The versions that the server knows, newest first. TF-Serving ignores labels here."""
        return self._transport.run(self._protocol.status(timeout_s))

    def metadata(self, *, timeout_s: float | None = None) -> Metadata:
        """The signatures of the served version, with the types and shapes of their tensors."""
        return self._transport.run(self._protocol.metadata(timeout_s))

    def reload(self, models: Iterable[ServedModel], *, timeout_s: float | None = None) -> None:
        """Make the server serve these models and no others. Returns when they are loaded.

        Retried only if the request certainly never reached the server. Raises InvalidInput when the
        server refuses the list.
        """
        self._transport.run(self._protocol.reload(models, timeout_s))

    def wait_until_available(self, *, timeout_s: float | None = None, poll_s: float = 0.1) -> int:
        """Wait for the pinned version, or any version, to be available, and return its number.

        Raises ServerError when the pinned version failed to load, or DeadlineExceeded with the last state.
        """
        return self._transport.run(self._protocol.wait_until_available(timeout_s, poll_s))
