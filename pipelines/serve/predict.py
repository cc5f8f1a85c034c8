"""`pergola predict`: classify images with a running server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pergola.components.errors import InputError, StepError
from pergola.pipelines.release.resolve import only_model
from pergola.pipelines.serve.exposure import read_token
from pergola.serving.wire.contract import GRPC_PORT, TOKEN_VARIABLE

if TYPE_CHECKING:
    from pergola.components.workspace import Workspace


def predict(
    workspace: Workspace,
    images: Sequence[Path],
    *,
    model: str | None = None,
    server: str | None = None,
    version: int | None = None,
    top: int = 3,
    timeout_s: float = 10.0,
    token_file: Path | None = None,
) -> list[dict[str, Any]]:
    """A dict per image: path, label, probability, top (a list of [label, probability]), version, and id.

    The id is the SHA-256 of the bytes that were sent; `pergola feedback` identifies requests by it. A model
    with costs adds a decision.
    Raises InputError for an image that is missing or cannot be decoded, and for a model or version
    that the server does not have; StepError if no server responds in time.
    """
    from pergola.components.evaluation.drift.feedback import image_id
    from pergola.serving.client import Client, ClientError, InvalidInput, NotAllowed, NotFound, Unavailable
    from pergola.serving.wire.images import prepare

    for image in images:
        if not image.is_file():
            raise InputError(f"There is no image at {image}. Check the path.")
    model, token = model or only_model(workspace), read_token(token_file)
    address = server or workspace.server().get("grpc") or f"localhost:{GRPC_PORT}"
    try:
        with Client(address, model=model, version=version, timeout_s=timeout_s, token=token) as client:
            answer = client.classify_images(images)
            best = answer.top(top)
    except Unavailable as error:
        hint = (
            f"Start one with `pergola serve --workspace {workspace.root}`, or give its address with --server."
        )
        raise StepError(f"No server answers at {address}. {hint}") from error
    except NotAllowed as error:
        raise InputError(
            f"{error} Name the token's file with --token-file, or set {TOKEN_VARIABLE}."
        ) from error
    except (InvalidInput, NotFound) as error:
        raise InputError(str(error)) from error
    except ClientError as error:
        raise StepError(str(error)) from error
    rows = zip(images, answer.labels, answer.probability, best, strict=True)
    decisions = answer.decisions or ()
    return [
        {
            "path": str(path),
            "label": label,
            "probability": float(probability),
            "top": [[name, p] for name, p in ranked],
            "version": answer.version,
            "id": image_id(prepare(path)),
            **({"decision": decisions[place]} if decisions else {}),
        }
        for place, (path, label, probability, ranked) in enumerate(rows)
    ]


def table(predictions: Sequence[dict[str, Any]]) -> str:
    """One line per image."""
    width = max(len(prediction["path"]) for prediction in predictions)
    lines = []
    for prediction in predictions:
        others = ", ".join(f"{label} {p:.1%}" for label, p in prediction["top"][1:])
        decision = f" -> {prediction['decision']}" if "decision" in prediction else ""
        lines.append(
            f"{prediction['path']:<{width}}  {prediction['label']} {prediction['probability']:.1%}{decision}"
            f"  (version {prediction['version']}{f'; {others}' if others else ''})"
        )
    return "\n".join(lines)
