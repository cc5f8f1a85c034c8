"""`pergola predict`: images to a running server, answers to a person."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pergola.components.errors import InputError, StepError
from pergola.pipelines.release.resolve import only_model
from pergola.serving.wire.contract import GRPC_PORT

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
) -> list[dict[str, Any]]:
    """A dict an image: path, label, probability, top (a list of [label, probability]), version, and id.

    The id is the SHA-256 of what was sent, by which `pergola feedback` knows the request.

    A model that knows what errors cost gives a decision too.
    Raises InputError for an image that is missing or cannot be decoded, and for a model or version
    that the server does not have; StepError when no server answers in time.
    """
    from pergola.components.evaluation.drift.feedback import image_id
    from pergola.serving.client.client import Client, ClientError, InvalidInput, NotFound, Unavailable
    from pergola.serving.wire.images import prepare

    for image in images:
        if not image.is_file():
            raise InputError(f"There is no image at {image}. Check the path.")
    model = model or only_model(workspace)
    address = server or workspace.server().get("grpc") or f"localhost:{GRPC_PORT}"
    try:
        with Client(address, model=model, version=version, timeout_s=timeout_s) as client:
            answer = client.classify_images(images)
            best = answer.top(top)
    except Unavailable as error:
        hint = f"Start one with `pergola serve --workspace {workspace.root}`, or name it with --server."
        raise StepError(f"No server answers at {address}. {hint}") from error
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


def table(answers: Sequence[dict[str, Any]]) -> str:
    """A line an image."""
    width = max(len(answer["path"]) for answer in answers)
    lines = []
    for answer in answers:
        others = ", ".join(f"{label} {p:.1%}" for label, p in answer["top"][1:])
        decision = f" -> {answer['decision']}" if "decision" in answer else ""
        lines.append(
            f"{answer['path']:<{width}}  {answer['label']} {answer['probability']:.1%}{decision}"
            f"  (version {answer['version']}{f'; {others}' if others else ''})"
        )
    return "\n".join(lines)
