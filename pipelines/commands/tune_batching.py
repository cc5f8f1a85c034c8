"""`pergola tune-batching`: find the server's batching parameters by load tests."""

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
    report: Callable[[str], None],
) -> dict[str, Any]:
    """Load-test a separate server with one image per request; writes the best parameters to `output`.

    If batching does not help, no file is written and the summary says so. Raises InputError for an image that
    cannot be decoded and for invalid options, StepError if the server does not start.
    """
    from pergola.serving.client import ClientError, InvalidInput
    from pergola.serving.tools.batching_search import BatchingTrial, tune_batching
    from pergola.serving.wire import contract, images

    def print_trial(trial: BatchingTrial) -> None:
        setting = trial.parameters or "no batching"
        report(f"{trial.requests_per_s:8.0f} requests/s, p99 {trial.p99_ms:7.1f} ms: {setting}")

    model = model or only_model(workspace)
    extras.require("tensorflow")  # of the server that it starts
    try:
        request = {contract.IMAGE: [images.prepare(image)]}
        tuning = tune_batching(workspace.models / model, model, request, concurrency=concurrency,
                               seconds=seconds, max_p99_ms=max_p99_ms, on_trial=print_trial)  # fmt: skip
    except (InvalidInput, ValueError) as error:
        raise InputError(str(error)) from error
    except ClientError as error:
        raise StepError(str(error)) from error
    if tuning.best.parameters is None:
        summary = (
            f"Batching does not help: {tuning.without.requests_per_s:.0f} requests/s without it is best."
        )
        return {"model": model, "file": None, "summary": summary}
    tuning.save(output)
    gain = tuning.best.requests_per_s / tuning.without.requests_per_s
    flags = f"--enable_batching --batching_parameters_file={output}"
    summary = f"{gain:.2f} times the throughput without batching. Start the server with {flags}"
    return {"model": model, "file": str(output), "gain": gain, "summary": summary}
