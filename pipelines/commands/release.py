"""The commands that decide which version is live: release, promote, rollback, releases.

`register` adds them to the command line. Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from pergola.components.errors import InputError, StepError
from pergola.pipelines.commands.command import DEFAULT_WORKSPACE, PATH, echo, with_json
from pergola.pipelines.release.target import Target

if TYPE_CHECKING:
    from pergola.components.store.release_record import Release

ACTIONS = ("stable", "canary", "promote", "withdraw", "status")


def register(group: click.Group) -> None:
    """Add the commands to `group`."""
    for command in (release, promote, rollback, releases):
        group.add_command(command)


def _target_options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--tracking", envvar="MLFLOW_TRACKING_URI", show_envvar=True,
                     help="With a store: MLflow server, whose champion alias is updated."),
        click.option("--model", help="Name of the model. Required if there are several."),
        click.option("--store", "uri", envvar="PERGOLA_STORE", show_envvar=True,
                     help="Model store instead of a workspace: a folder, s3://… or gs://…"),
        click.option("--workspace", type=PATH, envvar="PERGOLA_WORKSPACE", show_envvar=True,
                     help=f"Workspace. Default: {DEFAULT_WORKSPACE}."),
    ):  # fmt: skip
        function = option(function)
    return function


def _reason_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--reason", default="", help="Why, for the history; see `pergola releases`.")(
        function
    )


@click.command()
@click.argument("action", metavar=f"[{'|'.join(ACTIONS)}|VERSION]")
@click.argument("version", type=int, required=False)
@click.option("--share", help="Share of requests for the canary: 10% or 0.1.")
@click.option("--route", metavar="NAMESPACE/NAME", help="GRPCRoute whose weights are set to the share.")
@click.option("--watch", is_flag=True, help="promote: run a canary analysis first, then promote or withdraw.")
@click.option("--stable-at", multiple=True, help="With --watch: REST address of stable servers.")
@click.option("--canary-at", multiple=True, help="With --watch: REST address of canary servers.")
@click.option("--canary-grpc", help="With --golden: gRPC address of the canary.")
@click.option("--golden", type=click.Path(path_type=Path), help="With --watch: folder with golden.json.")
@click.option("--window", type=float, default=300.0, show_default=True, help="With --watch: seconds.")
@_reason_option
@_target_options
@with_json
def release(
    action: str, version: int | None, share: str | None, route: str | None, uri: str | None,
    workspace: Path | None, model: str | None, tracking: str | None, watch: bool, reason: str,
    **analysis: Any,
) -> tuple[Any, str]:  # fmt: skip
    """Set or show the stable version and the canary.

    \b
    pergola release 4                        all requests go to version 4, as with `release stable 4`
    pergola release canary 5 --share 10%     10% of the requests go to version 5
    pergola release promote                  the canary becomes stable
    pergola release promote --watch --stable-at http://… --canary-at http://…
    pergola release withdraw                 remove the canary; `withdraw 4` removes a stable version
    pergola release status

    Changes release.json of the workspace, or with --store <store>/<model>/release.json. `pergola serve` and
    every `pergola sync` apply it within seconds.
    """
    from pergola.components.store import release_record

    action, version = _action(action, version)
    _check_use(action, version, share, watch)
    route_target = _parse_route(route) if route else None
    changes: dict[str, Callable[[Release], Release]] = {
        "stable": lambda r: release_record.make_stable(r, _required(version, action)),
        "canary": lambda r: release_record.make_canary(r, _required(version, action), _share(share)),
        "promote": release_record.promote,
        "withdraw": lambda r: release_record.withdraw(r, version),
        "status": lambda r: r,
    }
    target = _target(workspace, uri, tracking)
    name = target.existing_model(model)
    if watch:
        from pergola.pipelines.release import canary

        current = target.store.release(name)
        action, reasons = canary.verdict(current, name, **analysis)
        for text in reasons:
            echo(f"{action}: {text}")
        changes = {key: _only_for(current.canary, change) for key, change in changes.items()}
        reason = reason or "; ".join(reasons)
    if action == "status":
        data = target.described(name)
    else:
        why = reason or f"pergola release {action}"
        data = target.change(name, changes[action], why=why, anew=action == "stable",
                             moves_alias=action in ("stable", "promote") or version is not None)  # fmt: skip
    if route_target:
        _write_share(*route_target, data["share"])
    return data, _summary(data)


@click.command()
@click.argument("version")
@_reason_option
@_target_options
@with_json
def promote(
    version: str,
    reason: str,
    uri: str | None,
    workspace: Path | None,
    model: str | None,
    tracking: str | None,
) -> tuple[Any, str]:
    """Release a held or an earlier version.

    \b
    pergola promote 3
    pergola promote leaves/3 --reason "checked by the botanists"
    pergola promote 3 --workspace /work --store s3://models/pergola

    Does what a run does with an accepted model: publishes the registered SavedModel, sends it its golden
    requests, then makes it the champion. With --store alone it makes a version of the store stable; with
    --workspace and --store it releases the version in both.
    """
    from pergola.pipelines.release import promote as promotion

    name, _, number = version.rpartition("/")
    if not number.isdecimal():
        raise InputError(
            f"'{version}' is not a version. Expected VERSION or MODEL/VERSION, such as leaves/3."
        )
    why = reason or f"pergola promote {version}"
    if _is_given("workspace") and uri is not None:
        target = Target.of_workspace(workspace or DEFAULT_WORKSPACE)
    else:
        target = _target(workspace, uri, tracking)
        uri = None
    data = promotion.promote(target, name or model, int(number), why, store=uri)
    return data, _summary(data)


@click.command()
@_reason_option
@_target_options
@with_json
def rollback(
    reason: str, uri: str | None, workspace: Path | None, model: str | None, tracking: str | None
) -> tuple[Any, str]:
    """Return to the previous stable version.

    \b
    pergola rollback --reason "wrong labels for maple"
    pergola rollback --store s3://models/pergola --model leaves

    A canary is withdrawn. `pergola promote N` releases the version again.
    """
    from pergola.components.store import release_record

    target = _target(workspace, uri, tracking)
    name = target.existing_model(model)
    data = target.change(name, release_record.rollback, why=reason or "pergola rollback")
    return data, _summary(data)


@click.command()
@click.option("--at", metavar="TIME", help="Only what was live at this time: 2026-11-01T12:00, local time; "
              "2026-11-01T12:00Z for UTC.")  # fmt: skip
@_target_options
@with_json
def releases(
    at: str | None, uri: str | None, workspace: Path | None, model: str | None, tracking: str | None
) -> tuple[Any, str]:
    """Show which version was live when, and why.

    \b
    pergola releases
    pergola releases --at 2026-11-01T12:00
    pergola releases --store s3://models/pergola --model leaves --json
    """
    from pergola.pipelines.release import history

    target = _target(workspace, uri, tracking)
    release = target.store.release(name := target.existing_model(model))
    if at is None:
        return history.listed(name, release)
    return history.live_at(name, release, at)


def _target(workspace: Path | None, uri: str | None, tracking: str | None) -> Target:
    """Options on the command line win over the environment, a store there over a workspace."""
    typed = {name: _is_given(name) for name in ("workspace", "uri")}
    if all(typed.values()):
        raise InputError("Got --workspace and --store. Give one of them: both have a release record.")
    if uri is not None and not typed["workspace"]:
        return Target.of_store(uri, tracking)
    return Target.of_workspace(workspace or DEFAULT_WORKSPACE)


def _is_given(parameter: str) -> bool:
    return click.get_current_context().get_parameter_source(parameter) == ParameterSource.COMMANDLINE


def _action(action: str, version: int | None) -> tuple[str, int | None]:
    """ "4" is short for "stable 4". Raises InputError for an unknown action."""
    if action.isdecimal() and version is None:
        return "stable", int(action)
    if action not in ACTIONS:
        raise InputError(f"'{action}' is neither a version nor one of {', '.join(ACTIONS)}.")
    return action, version


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
