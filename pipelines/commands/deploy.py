"""The commands that bring models to clusters: push, sync, deploy.

`register` adds them to the command line. Nothing heavy is imported before a command runs; `sync` imports only
click and what its store needs, since it runs in a small container.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import click

from pergola import extras, k8s
from pergola.components.errors import InputError, StepError
from pergola.components.outside_text import visible
from pergola.pipelines.commands.command import echo, with_json
from pergola.pipelines.release.target import only_model_of


def register(group: click.Group) -> None:
    """Add the commands to `group`."""
    for command in (sync, push, deploy):
        group.add_command(command)


@click.command()
@click.argument("store")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--model", "models", multiple=True, help="Only this model. Repeatable. Default: all.")
@click.option("--track", type=click.Choice(["stable", "canary", "both"]), default="stable", show_default=True,
              help="Version to serve.")  # fmt: skip
@click.option(
    "--interval", type=float, default=5.0, show_default=True, help="Seconds between checks of the store."
)
@click.option(
    "--grace", type=float, default=60.0, show_default=True, help="Seconds before unused versions are deleted."
)
@click.option(
    "--server", default="", help="REST address of the server; a label moves once it serves the version."
)
@click.option("--host", default="", help="Address to bind for health and metrics. Default: all.")
@click.option("--port", type=int, default=8502, show_default=True, help="Port for health and metrics.")
@click.option("--certificates", type=click.Path(path_type=Path), help="Folder with tls.key, tls.crt, ca.crt.")
@click.option(
    "--ssl-config", type=click.Path(path_type=Path), help="Write the server's ssl config file here."
)
@click.option("--require-signature", "public_key", type=click.Path(path_type=Path), metavar="PUBLIC_KEY",
              help="Take only versions that the owner of this key (PEM) signed.")  # fmt: skip
@click.option("--once", is_flag=True, help="Sync once, write models.config and exit.")
@click.option("--json", "as_json", is_flag=True, help="With --once: print the status as JSON.")
def sync(
    store: str, folder: Path, models: tuple[str, ...], track: str, interval: float, grace: float, server: str,
    host: str, port: int, certificates: Path | None, ssl_config: Path | None,
    public_key: Path | None, once: bool, as_json: bool,
) -> None:  # fmt: skip
    """Sync released versions to a server's folder.

    \b
    pergola sync s3://models/pergola /models --model leaves
    pergola sync /mnt/store /models --track both --once

    Each version is downloaded to a temporary folder, verified by its checksums, and renamed into place; then
    FOLDER/models.config is written for the server's --model_config_file. Health, status and metrics are on
    --port. Ctrl-C or SIGTERM stops it.
    """
    from pergola.components import records
    from pergola.components.store import sync as syncing
    from pergola.components.store.ssl_config import write_ssl_config

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    options = {"models": models, "track": track, "interval_s": interval, "grace_s": grace, "server": server}
    if public_key is not None:
        if not public_key.is_file():
            raise InputError(f"--require-signature: there is no public key at {public_key}. Check the path.")
        extras.require("model_signing")
        options["public_key"] = str(public_key.absolute())
    settings = records.from_dict(syncing.SyncSettings, options, "pergola sync")
    if (certificates is None) != (ssl_config is None):
        raise InputError("--certificates and --ssl-config must be given together. Give both or neither.")
    if certificates is not None and ssl_config is not None:
        write_ssl_config(certificates, ssl_config)
    status = syncing.run(store, folder, settings, host=host, port=port, once=once)
    if once:
        click.echo(status.to_json() if as_json else visible(status.reason or "") or "ok", nl=not as_json)
        sys.exit(1 if status.reason else 0)


@click.command()
@click.argument("version", type=int)
@click.option("--store", "uri", envvar="PERGOLA_STORE", show_envvar=True, required=True,
              help="Destination: a folder, s3://… or gs://…")  # fmt: skip
@click.option("--from", "source", type=click.Path(path_type=Path), default=Path("pergola-work/models"),
              show_default=True, help="Store to copy from.")  # fmt: skip
@click.option("--model", help="Name of the model. Required if there are several.")
@with_json
def push(version: int, uri: str, source: Path, model: str | None) -> tuple[Any, str]:
    """Copy a version to another model store.

    \b
    pergola push 3 --store s3://models/pergola
    pergola release canary 3 --share 10% --store s3://models/pergola
    """
    from pergola.components.store.model_store import open_store
    from pergola.components.store.store_errors import MissingVersion

    here, there = open_store(source), open_store(uri)
    name = model or only_model_of(here)
    if version not in here.versions(name):
        known = ", ".join(map(str, here.versions(name))) or "none"
        raise InputError(f"{source} has no version {version} of '{name}'. Published: {known}.")
    there.put(source / name / str(version), name, version)
    try:
        files = len(there.checksums(name, version))
    except MissingVersion as error:
        raise StepError(f"{error} It was withdrawn during the push.") from None
    data = {"store": there.uri, "model": name, "version": version, "files": files}
    return data, f"{there.uri}/{name}/{version}: {files} files."


@click.command()
@click.argument("overlay")
@click.option("--kubeconfig", help="Default: $KUBECONFIG, ~/.kube/config, or the pod's own account.")
@click.option("--context", help="Default: the current context.")
@click.option(
    "--timeout", type=float, default=600.0, show_default=True, help="Seconds to wait; 0: do not wait."
)
@click.option("--dry-run", is_flag=True, help="Validate on the server without changing anything.")
@click.option("--force", is_flag=True, help="Take over fields managed by others.")
@with_json
def deploy(
    overlay: str, kubeconfig: str | None, context: str | None, timeout: float, dry_run: bool, force: bool
) -> tuple[Any, str]:
    """Apply an overlay to a cluster and wait for it.

    \b
    pergola deploy k8s/overlays/production --context staging
    pergola deploy dev --dry-run

    OVERLAY is a folder with a kustomization.yaml, or the name of a built-in one.
    """
    from pergola.k8s.manifests import ManifestError, build, name_of
    from pergola.k8s.rollout import Cluster, NotConfigured, RolloutError

    try:
        objects = build(_overlay(overlay))
        cluster = Cluster.connect(kubeconfig, context)
        for thing in objects:
            (name,) = cluster.apply([thing], dry_run=dry_run, force=force)
            echo(f"{name} {'would be applied' if dry_run else 'applied'}")
        waits = bool(timeout) and not dry_run
        if waits:
            cluster.wait(objects, timeout)
    except (ManifestError, NotConfigured) as error:
        raise InputError(str(error)) from None
    except RolloutError as error:
        raise StepError(str(error)) from None
    names = [name_of(thing) for thing in objects]
    return {"objects": names, "dry_run": dry_run, "runs": waits}, "All workloads are ready." if waits else ""


def _overlay(text: str) -> Path:
    ours = Path(k8s.__file__).resolve().parent / "overlays"
    if Path(text).is_dir() or "/" in text:
        return Path(text)
    names = sorted(path.name for path in ours.iterdir() if path.is_dir())
    if text not in names:
        raise InputError(
            f"'{text}' is neither a folder nor a built-in overlay ({', '.join(names)}). Give one of them."
        )
    return ours / text
