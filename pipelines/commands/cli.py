"""The `pergola` command. Commands import what is heavy when they run, so that --help responds at once.

Exit status: 0 success (a rejected model is a success), 1 failure, 2 usage error, 3 drift or unmet
expectations. With --json, stdout holds one JSON document and nothing else; messages go to stderr.
"""

from __future__ import annotations

import os
from typing import Any

import click

from pergola.components.errors import PergolaError
from pergola.pipelines.commands import (
    aliases,
    build,
    deploy,
    experiments,
    kubeflow,
    monitoring,
    release,
    serving,
)
from pergola.pipelines.commands.command import print_status, status_of

SECTIONS = {  # of --help, in this order
    "Build": ("run", "validate", "expectations", "architectures", "compare-architectures", "tune", "versions",
              "config"),
    "Serve": ("serve", "predict", "tune-batching", "push"),
    "Release": ("promote", "release", "rollback", "releases"),
    "Monitor": ("drift", "feedback", "retrain", "lineage", "forget"),
    "Kubeflow and Kubernetes": ("compile", "submit", "runs", "schedule", "deploy", "sync"),
}  # fmt: skip


class PergolaGroup(click.Group):
    """Commands in sections, also by their old names; an error is one sentence and an exit status."""

    def invoke(self, context: click.Context) -> Any:
        """Run the command and turn its errors into a message and a status."""
        try:
            return super().invoke(context)
        except PergolaError as error:
            print_status(f"pergola: {error}")
            context.exit(status_of(error))

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command, also by the name that it had in the release before."""
        current = aliases.with_current_names(args, lambda line: print_status(f"pergola: {line}"))
        return super().resolve_command(context, current)

    def list_commands(self, context: click.Context) -> list[str]:
        """Commands in the order of the sections."""
        return [name for names in SECTIONS.values() for name in names]

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """A list of commands for each section."""
        width = max(map(len, self.commands))
        limit = formatter.width - width - 6
        for section, names in SECTIONS.items():
            rows = [(f"{name:<{width}}", self.commands[name].get_short_help_str(limit)) for name in names]
            with formatter.section(section):
                formatter.write_dl(rows)


@click.group(
    cls=PergolaGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="pergola-ml")
def pergola() -> None:
    """Turn a folder of images into a tested, released and served classifier.

    \b
    pergola run DATASET          validate, split, train, evaluate, gate, register, publish
    pergola serve                serve the model: gRPC on port 8500, REST on 8501
    pergola predict leaf.jpg     classify an image: label, probability, model version

    DATASET is a folder with one folder of images per class, a CSV or Parquet list
    (path,label[,split]), IDX files, CIFAR batches, an .npz file, or an archive of a folder.
    All results go to the workspace: ./pergola-work, or the folder given with --workspace.
    """


for _module in (build, experiments, serving, release, deploy, monitoring, kubeflow):
    _module.register(pergola)


def main() -> None:
    """The console script."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    pergola(windows_expand_args=False)


if __name__ == "__main__":
    main()
