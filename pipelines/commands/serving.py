"""The commands that serve models on this machine and query them: serve, predict, tune-batching.

`register` adds them to the command line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from pergola.pipelines.commands.command import PATH, CommonOptions, echo, print_status, with_options


def register(group: click.Group) -> None:
    """Add the commands to `group`."""
    for command in (serve, predict, tune_batching):
        group.add_command(command)


@with_options
@click.option("--model", help="Serve only this model. Default: all in the workspace.")
@click.option("--port", type=int, default=8500, show_default=True, help="gRPC port; 0 picks a free one.")
@click.option("--rest-port", type=int, default=8501, show_default=True, help="REST port; 0 picks a free one.")
@click.option("--stock-server", is_flag=True, help="Run tensorflow_model_server, which must be on the PATH.")
@click.option("--log-requests", "log_share", type=click.FloatRange(0, 1), default=0.0, show_default=True,
              help="Fraction of requests to log, with images, for `drift` and `feedback`.")  # fmt: skip
@click.option("--log-max-mb", type=click.IntRange(1), default=1024, show_default=True,
              help="Size limit of a model's request log in MB; the oldest requests go first.")  # fmt: skip
@click.option("--log-days", type=click.FloatRange(0), default=0.0, show_default=True,
              help="Delete logged requests after so many days; 0 keeps them.")  # fmt: skip
@click.option("--host", default="", metavar="ADDRESS", show_default="127.0.0.1",
              help="IP address to listen on; 0.0.0.0 for every network interface.")  # fmt: skip
@click.option("--token-file", type=PATH, help="File with the tokens that requests need one of, one a line. "
              "Default: the variable PERGOLA_SERVER_TOKEN, else no token.")  # fmt: skip
@click.option("--allow-reload", "reload", is_flag=True, help="Let clients change the list of served models.")
@click.option("--profiler", is_flag=True, help="Offer TensorFlow's profiler, which writes files.")
@click.option("--metrics", is_flag=True, help="Offer /monitoring/prometheus/metrics on the REST port.")
@click.option("--require-signature", "public_key", type=PATH, metavar="PUBLIC_KEY",
              help="Serve only versions that the owner of this key (PEM) signed.")  # fmt: skip
def serve(
    options: CommonOptions,
    model: str | None,
    port: int,
    rest_port: int,
    stock_server: bool,
    log_share: float,
    log_max_mb: int,
    log_days: float,
    public_key: Path | None,
    **exposure: Any,
) -> dict[str, Any]:
    """Serve models with TensorFlow Serving's API.

    \b
    pergola serve
    pergola serve --port 9000 --rest-port 9001 --log-requests 0.1
    pergola serve --host 0.0.0.0 --token-file token.txt

    Answers this machine with the champion of each model of the workspace, and follows `run`, `promote` and
    `rollback`. Ctrl-C or SIGTERM stops it after the requests in flight.
    """
    from pergola.pipelines.serve import session
    from pergola.pipelines.serve.exposure import Exposure

    return session.serve(
        options.open_workspace(),
        session.Ports(port, rest_port),
        model=model,
        stock_server=stock_server,
        report=print_status,
        log=session.LogOptions(log_share, log_max_mb * 1_000_000, log_days * 86_400),
        exposure=Exposure(**exposure),
        public_key=public_key,
    )


@with_options
@click.argument("images", nargs=-1, required=True, type=PATH)
@click.option("--model", help="Name of the model. Required if the workspace has several.")
@click.option("--server", help="gRPC address, such as localhost:8500. Default: the workspace's server.")
@click.option("--version", "version", type=int, help="Model version. Default: the one that answers.")
@click.option("--top", type=int, default=3, show_default=True, help="Number of classes to list.")
@click.option("--token-file", type=PATH, help="File with the server's token. Default: the variable "
              "PERGOLA_SERVER_TOKEN.")  # fmt: skip
@click.option("--timeout", "timeout_s", type=float, default=10.0, show_default=True, help="Seconds to wait.")
def predict(options: CommonOptions, images: tuple[Path, ...], **arguments: Any) -> list[dict[str, Any]]:
    """Classify IMAGES with a running server.

    \b
    pergola predict leaf.jpg
    pergola predict *.jpg --top 1 --json
    """
    from pergola.pipelines.serve import predict as client

    predictions = client.predict(options.open_workspace(), images, **arguments)
    if not options.json:
        echo(client.table(predictions))
    return predictions


@with_options
@click.argument("image", type=PATH)
@click.option("--model", help="Name of the model. Required if the workspace has several.")
@click.option("--concurrency", type=int, default=32, show_default=True, help="Concurrent clients.")
@click.option("--seconds", type=float, default=4.0, show_default=True, help="Duration of each trial.")
@click.option("--max-p99-ms", type=float, help="Upper limit of the 99th percentile of the latency.")
@click.option("--output", type=PATH, default=Path("batching.config"), show_default=True,
              help="File to write.")  # fmt: skip
def tune_batching(options: CommonOptions, image: Path, **arguments: Any) -> dict[str, Any]:
    """Find the server's best batching parameters.

    \b
    pergola tune-batching leaf.jpg
    pergola tune-batching leaf.jpg --concurrency 64 --max-p99-ms 50

    Runs load tests with IMAGE and writes the file for --batching_parameters_file. Run it on an otherwise idle
    machine.
    """
    from pergola.pipelines.commands import tune_batching as batching

    found = batching.tune(options.open_workspace(), image, report=print_status, **arguments)
    if not options.json:
        echo(found["summary"])
    return found
