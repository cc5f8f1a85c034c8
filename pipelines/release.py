"""The commands that move released versions: sync, release, rollback.

`register` adds them to the command line. Nothing heavy is imported before a command runs; `sync` never
imports more than click and what its store needs, since it runs in a small container.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from components.errors import InputError

if TYPE_CHECKING:
    from components.release.store import Store
    from components.release.traffic import Release

ACTIONS = ("stable", "canary", "promote", "withdraw", "status")


def register(group: click.Group) -> None:
    """Add the commands to `group`."""
    for command in (sync, release, rollback):
        group.add_command(command)


@click.command()
@click.argument("store")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--model", "models", multiple=True, help="Only this model; may be repeated. Default: all.")
@click.option("--track", type=click.Choice(["stable", "canary", "both"]), default="stable", show_default=True,
              help="Which version to serve.")  # fmt: skip
@click.option("--interval", type=float, default=5.0, show_default=True, help="Seconds between looks.")
@click.option("--grace", type=float, default=60.0, show_default=True, help="Seconds unused versions stay.")
@click.option("--server", default="", help="REST address of the server, asked before a label moves.")
@click.option("--host", default="", help="Address of health and metrics; default all.")
@click.option("--port", type=int, default=8502, show_default=True, help="Port of health and metrics.")
@click.option("--certificates", type=click.Path(path_type=Path), help="Folder with tls.key, tls.crt, ca.crt.")
@click.option(
    "--ssl-config", type=click.Path(path_type=Path), help="Write the server's ssl config file here."
)
@click.option("--once", is_flag=True, help="Fetch what is wanted, write models.config and stop.")
@click.option("--json", "as_json", is_flag=True, help="With --once: print the status as JSON.")
def sync(
    store: str, folder: Path, models: tuple[str, ...], track: str, interval: float, grace: float, server: str,
    host: str, port: int, certificates: Path | None, ssl_config: Path | None, once: bool, as_json: bool,
) -> None:  # fmt: skip
    """Keep FOLDER in step with the released versions of STORE, beside TensorFlow Serving.

    \b
    pergola sync s3://models/pergola /models --model leaves
    pergola sync /mnt/store /models --track both --once

    Each version is fetched aside, its checksums are verified, and it is renamed into place; then
    FOLDER/models.config is written for the server's --model_config_file. Health, status and metrics are on
    --port. Ctrl-C or SIGTERM stops.
    """
    from components import records
    from components.release import sync as body
    from components.release.ssl_config import write_ssl_config

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    wanted = {"models": models, "track": track, "interval_s": interval, "grace_s": grace, "server": server}
    settings = records.from_dict(body.SyncSettings, wanted, "pergola sync")
    if (certificates is None) != (ssl_config is None):
        raise InputError("--certificates and --ssl-config belong together: give both or none.")
    if certificates is not None and ssl_config is not None:
        write_ssl_config(certificates, ssl_config)
    status = body.run(store, folder, settings, host=host, port=port, once=once)
    if once:
        click.echo(status.to_json() if as_json else status.reason or "ok", nl=not as_json)
        sys.exit(1 if status.reason else 0)


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout."),
        click.option(
            "--tracking", envvar="MLFLOW_TRACKING_URI", help="MLflow, whose champion alias follows."
        ),
        click.option("--model", help="Which model; not needed while the store holds one."),
        click.option(
            "--store",
            "uri",
            envvar="PERGOLA_STORE",
            default="pergola-work/models",
            show_default=True,
            help="Model store: a folder, s3://… or gs://…",
        ),
    ):
        function = option(function)
    return function


@click.command()
@click.argument("action", type=click.Choice(ACTIONS))
@click.argument("version", type=int, required=False)
@click.option("--share", help="Of the requests that go to the canary: 10% or 0.1.")
@_options
def release(
    action: str, version: int | None, share: str | None, uri: str, model: str | None, tracking: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Say which version is stable and which is canary.

    \b
    pergola release stable 4                 all requests go to version 4
    pergola release canary 5 --share 10%     version 5 on trial beside it
    pergola release promote                  the canary becomes stable
    pergola release withdraw                 the canary goes; `withdraw 4` takes a stable version away
    pergola release status

    Changes <store>/<model>/release.json, which every `pergola sync` follows within seconds.
    """
    from components.release import traffic

    changes: dict[str, Callable[[Release], Release]] = {
        "stable": lambda r: traffic.make_stable(r, _needed(version, action)),
        "canary": lambda r: traffic.make_canary(r, _needed(version, action), _share(share)),
        "promote": traffic.promote,
        "withdraw": lambda r: traffic.withdraw(r, version),
        "status": lambda r: r,
    }
    _apply(changes[action], uri, model, tracking, as_json)


@click.command()
@_options
def rollback(uri: str, model: str | None, tracking: str | None, as_json: bool) -> None:
    """Make the version before the stable one stable again, and withdraw a canary.

    \b
    pergola rollback --store s3://models/pergola --model leaves
    """
    from components.release import traffic

    _apply(traffic.rollback, uri, model, tracking, as_json)


def _apply(
    change: Callable[[Release], Release], uri: str, model: str | None, tracking: str | None, as_json: bool
) -> None:
    from components import records
    from components.release.store import open_store

    store = open_store(uri)
    name = model or _only_model(store)
    before = store.release(name)
    after = store.change(name, change)
    if tracking and after.stable not in (None, before.stable):
        from components.release.registry import Registry

        Registry(tracking).promote(name, after.stable)
    data = {
        "store": store.uri, "model": name, **records.to_dict(after),
        "published": store.versions(name), "changed": after != before,
    }  # fmt: skip
    click.echo(json.dumps(data) if as_json else _words(data))


def _words(data: dict[str, Any]) -> str:
    canary = f", canary {data['canary']} with {data['share']:.0%}" if data["canary"] else ""
    previous = f"; rollback goes to {data['previous']}" if data["previous"] else ""
    published = ", ".join(map(str, data["published"])) or "none"
    return f"{data['model']}: stable {data['stable'] or 'none'}{canary}{previous}. Published: {published}."


def _only_model(store: Store) -> str:
    names = store.models()
    if len(names) != 1:
        known = ", ".join(names) or "none"
        raise InputError(f"{store.uri} holds {len(names)} models ({known}). Name one with --model.")
    return names[0]


def _needed(version: int | None, action: str) -> int:
    if version is None or version < 1:
        raise InputError(f"pergola release {action} wants a version: pergola release {action} 4.")
    return version


def _share(text: str | None) -> float:
    try:
        number = float((text or "").rstrip("% "))
    except ValueError:
        raise InputError(f"--share wants a percentage or a fraction: 10% or 0.1. Got {text!r}.") from None
    return number / 100 if text and text.rstrip().endswith("%") else number
