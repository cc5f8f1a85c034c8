"""The methods of a gRPC service, whose messages are parsed here and not by gRPC.

gRPC for Python keeps about 17 kB of each message whose deserializer raises, and prints a traceback (seen
with 1.85); so it is given none.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import grpc


class Method(NamedTuple):
    """One method: its function of (request, context), the class of its requests, how it answers."""

    function: Callable[..., Any]
    request: Any
    streams: bool = False


Allows = Callable[[Any], str]
"""From a call's context: "", or why the call is refused."""


def everyone(context: Any) -> str:
    """Refuses no call."""
    return ""


def service(name: str, methods: Mapping[str, Method], allows: Allows = everyone) -> Any:
    """The generic RPC handler of the service `name`. allows: who may call it."""
    return grpc.method_handlers_generic_handler(
        name, {method: _handler(found, allows) for method, found in methods.items()}
    )


def methods_of(descriptor: Any, servicer: Any) -> dict[str, Method]:
    """The methods of a protobuf service that `servicer` has functions for."""
    from google.protobuf import message_factory

    return {
        method.name: Method(
            getattr(servicer, method.name),
            message_factory.GetMessageClass(method.input_type),
            method.server_streaming,
        )
        for method in descriptor.methods
        if hasattr(servicer, method.name)
    }


def _handler(method: Method, allows: Allows) -> Any:
    from google.protobuf.message import DecodeError

    @functools.wraps(method.function)  # with the attributes that gRPC looks for
    def call(body: bytes, context: Any, *more: Any) -> Any:
        if refusal := allows(context):
            return _end(context, grpc.StatusCode.UNAUTHENTICATED, refusal, method, *more)
        try:
            request = method.request.FromString(body)
        except DecodeError:
            text = f"The request is not a {method.request.DESCRIPTOR.full_name}"
            return _end(context, grpc.StatusCode.INTERNAL, text, method, *more)
        return method.function(request, context, *more)

    kind = grpc.unary_stream_rpc_method_handler if method.streams else grpc.unary_unary_rpc_method_handler
    return kind(call, response_serializer=_serialize)


def _end(context: Any, code: grpc.StatusCode, text: str, method: Method, *more: Any) -> Any:
    """End a call with an error and without an answer."""
    context.set_code(code)
    context.set_details(text)
    for send in more:  # of a method that sends its answers itself, and ends with None
        send(None)
    return () if method.streams else None


def _serialize(message: Any) -> bytes:
    return b"" if message is None else bytes(message.SerializeToString())
