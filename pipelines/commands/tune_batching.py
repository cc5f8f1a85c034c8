"""`pergola tune-batching`: the server's batching parameters, by measuring."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pergola import extras
from pergola.components.errors import InputError, StepError
from pergola.components.workspace import Workspace
from pergola.pipelines.release.resolve import only_model


def tune(
    workspace: Workspace,
    image: Path,
    *,
    model: str | None,
    concurrency: int,
    seconds: float,
    max_p99_ms: float | None,
    output: Path,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Measure a server of its own with one image a request; writes the best parameters to `output`.

    When batching does not pay, no file is written and the summary says so. Raises InputError for a
    image that cannot be decoded or settings that cannot be, StepError when the server does not start.
    """
    from pergola.serving.client.client import ClientError, InvalidInput
    from pergola.serving.tools.batching_search import BatchingTrial, tune_batching
    from pergola.serving.wire import contract, images

    def tell(trial: BatchingTrial) -> None:
        setting = trial.parameters or "no batching"
        say(f"{trial.requests_per_s:8.0f} requests/s, p99 {trial.p99_ms:7.1f} ms: {setting}")

    model = model or only_model(workspace)
    extras.require("tensorflow")  # of the server that it starts
    try:
        request = {contract.IMAGE: [images.prepare(image)]}
        tuning = tune_batching(workspace.models / model, model, request, concurrency=concurrency,
                               seconds=seconds, max_p99_ms=max_p99_ms, on_trial=tell)  # fmt: skip
    except (InvalidInput, ValueError) as error:
        raise InputError(str(error)) from error
    except ClientError as error:
        raise StepError(str(error)) from error
    if tuning.best.parameters is None:
        summary = f"Batching does not pay: {tuning.without.requests_per_s:.0f} requests/s without it is best."
        return {"model": model, "file": None, "summary": summary}
    tuning.save(output)
    gain = tuning.best.requests_per_s / tuning.without.requests_per_s
    flags = f"--enable_batching --batching_parameters_file={output}"
    summary = f"{gain:.2f} times the requests/s without batching. Start the server with {flags}"
    return {"model": model, "file": str(output), "gain": gain, "summary": summary}
