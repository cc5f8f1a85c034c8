"""The commands that bring models to servers: push, release, rollback, sync, deploy.

`register` adds them to the command line. Nothing heavy is imported before a command runs; `sync` imports only
click and what its store needs, since it runs in a small container.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pergola import extras, k8s
from pergola.components.errors import InputError, StepError
from pergola.components.outside_text import visible
from pergola.components.records import nearest
from pergola.pipelines.commands.command import echo, with_json

if TYPE_CHECKING:
    from pergola.components.store.model_store import Store
    from pergola.components.store.release_record import Release

ACTIONS = ("stable", "canary", "promote", "withdraw", "status")


def register(group: click.Group) -> None:
    """Add the commands to `group`."""
    for command in (sync, push, release, rollback, deploy):
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
    name = model or _only_model(here)
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


def _store_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--tracking",
            envvar="MLFLOW_TRACKING_URI",
            show_envvar=True,
            help="MLflow server, whose champion alias is updated.",
        ),
        click.option("--model", help="Name of the model. Required if the store has several."),
        click.option(
            "--store",
            "uri",
            envvar="PERGOLA_STORE",
            show_envvar=True,
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
@click.option("--share", help="Share of requests for the canary: 10% or 0.1.")
@click.option("--route", metavar="NAMESPACE/NAME", help="GRPCRoute whose weights are set to the share.")
@click.option("--watch", is_flag=True, help="promote: run a canary analysis first, then promote or withdraw.")
@click.option("--stable-at", multiple=True, help="With --watch: REST address of stable servers.")
@click.option("--canary-at", multiple=True, help="With --watch: REST address of canary servers.")
@click.option("--canary-grpc", help="With --golden: gRPC address of the canary.")
@click.option("--golden", type=click.Path(path_type=Path), help="With --watch: folder with golden.json.")
@click.option("--window", type=float, default=300.0, show_default=True, help="With --watch: seconds.")
@_store_options
@with_json
def release(
    action: str, version: int | None, share: str | None, route: str | None, uri: str, model: str | None,
    tracking: str | None, watch: bool, **analysis: Any,
) -> tuple[Any, str]:  # fmt: skip
    """Set or show the stable version and the canary.

    \b
    pergola release stable 4                 all requests go to version 4
    pergola release canary 5 --share 10%     10% of the requests go to version 5
    pergola release promote                  the canary becomes stable
    pergola release promote --watch --stable-at http://… --canary-at http://…
    pergola release withdraw                 remove the canary; `withdraw 4` removes a stable version
    pergola release status

    Changes <store>/<model>/release.json, which every `pergola sync` applies within seconds.
    """
    from pergola.components.store import release_record
    from pergola.components.store.model_store import open_store

    _check_use(action, version, share, watch)
    target = _parse_route(route) if route else None
    changes: dict[str, Callable[[Release], Release]] = {
        "stable": lambda r: release_record.make_stable(r, _required(version, action)),
        "canary": lambda r: release_record.make_canary(r, _required(version, action), _share(share)),
        "promote": release_record.promote,
        "withdraw": lambda r: release_record.withdraw(r, version),
        "status": lambda r: r,
    }
    store = open_store(uri)
    name = _existing_model(store, model)
    if watch:
        from pergola.pipelines.release import canary

        current = store.release(name)
        action, reasons = canary.verdict(current, name, **analysis)
        for reason in reasons:
            echo(f"{action}: {reason}")
        changes = {key: _only_for(current.canary, change) for key, change in changes.items()}
    data = _apply(changes[action], store, name, anew=action == "stable")
    if tracking and data["stable"] and (action in ("stable", "promote") or version is not None):
        _move_champion(tracking, name, data["stable"])
    if target:
        _write_share(*target, data["share"])
    return data, _summary(data)


@click.command()
@_store_options
@with_json
def rollback(uri: str, model: str | None, tracking: str | None) -> tuple[Any, str]:
    """Return to the previous stable version.

    \b
    pergola rollback --store s3://models/pergola --model leaves

    A canary is withdrawn.
    """
    from pergola.components.store import release_record
    from pergola.components.store.model_store import open_store

    store = open_store(uri)
    name = _existing_model(store, model)
    data = _apply(release_record.rollback, store, name)
    if tracking:
        _move_champion(tracking, name, data["stable"])
    return data, _summary(data)


def _only_for(canary: int | None, change: Callable[[Release], Release]) -> Callable[[Release], Release]:
    """The change, if the canary is still the one that was analysed."""

    def guarded(release: Release) -> Release:
        if release.canary != canary:
            raise InputError(
                f"The analysis was of version {canary}, but the canary is now {release.canary}. Run it again."
            )
        return change(release)

    return guarded


def _check_use(action: str, version: int | None, share: str | None, watch: bool) -> None:
    """Raises InputError for arguments that the action would ignore, and for missing ones."""
    if version is not None and action in ("promote", "status"):
        raise InputError(f"pergola release {action} takes no version, got {version}. Leave it out.")
    if share is not None and action != "canary":
        raise InputError(f"--share applies to canary, not to {action}. Leave it out.")
    if share is None and action == "canary":
        raise InputError("pergola release canary needs a share of the requests: --share 10%.")
    if watch and action != "promote":
        raise InputError(f"--watch applies to promote, not to {action}. Leave it out.")


def _apply(
    change: Callable[[Release], Release], store: Store, model: str, anew: bool = False
) -> dict[str, Any]:
    from pergola.components import records

    before: Release | None = None

    def recorded(release: Release) -> Release:
        nonlocal before
        before = release
        return change(release)

    after = store.change(model, recorded, anew=anew)
    return {
        "store": store.uri, "model": model, **records.to_dict(after),
        "published": store.versions(model), "changed": after != before,
    }  # fmt: skip


def _move_champion(tracking: str, model: str, version: int) -> None:
    """Also if the record did not change: the registry may have been unavailable the last time."""
    from pergola.components.release.registry import Registry

    try:
        Registry(tracking).promote(model, version)
    except StepError as error:
        raise StepError(
            f"The release record was written, but MLflow's champion was not. {error} Once it responds, run: "
            f"pergola release stable {version}"
        ) from None


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


def _parse_route(route: str) -> tuple[str, str]:
    namespace, slash, name = route.partition("/")
    if not slash or not namespace or not name:
        raise InputError(f"--route expects NAMESPACE/NAME, got {route!r}.")
    return namespace, name


def _write_share(namespace: str, name: str, share: float) -> None:
    from pergola.k8s.rollout import Cluster, RolloutError

    try:
        Cluster.connect().set_share(namespace, name, share)
    except RolloutError as error:
        raise StepError(f"The release record was written, but the route was not: {error}") from None


def _summary(data: dict[str, Any]) -> str:
    canary = f", canary {data['canary']} with {data['share']:.0%}" if data["canary"] else ""
    previous = f"; rollback goes to {data['previous']}" if data["previous"] else ""
    published = ", ".join(map(str, data["published"])) or "none"
    return f"{data['model']}: stable {data['stable'] or 'none'}{canary}{previous}. Published: {published}."


def _existing_model(store: Store, model: str | None) -> str:
    """The name of an existing model. Raises InputError if there is none."""
    if model is None:
        return _only_model(store)
    names = store.models()
    if model not in names:
        hint = nearest(model, names) if names else " It has none yet: pergola push N."
        raise InputError(f"{store.uri} has no model '{model}'.{hint}")
    return model


def _only_model(store: Store) -> str:
    names = store.models()
    if len(names) != 1:
        known = ", ".join(names) or "none"
        raise InputError(f"{store.uri} has {len(names)} models ({known}). Choose one with --model.")
    return names[0]


def _required(version: int | None, action: str) -> int:
    if version is None or version < 1:
        raise InputError(f"pergola release {action} needs a version: pergola release {action} 4.")
    return version


def _share(text: str | None) -> float:
    try:
        number = float((text or "").rstrip("% "))
    except ValueError:
        raise InputError(
            f"--share expects a percentage or a fraction, such as 10% or 0.1. Got '{text}'."
        ) from None
    return number / 100 if text and text.rstrip().endswith("%") else number
