"""Runs on Kubeflow: create one, list them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pergola.components import records
from pergola.components.errors import InputError
from pergola.components.records import nearest
from pergola.components.settings import check_model_name
from pergola.pipelines.kubeflow.client import connection as kubeflow
from pergola.pipelines.kubeflow.client.connection import KubeflowConnection

if TYPE_CHECKING:
    from pergola.components.settings import Settings
    from pergola.pipelines.kubeflow.cluster import ClusterSettings

EXPERIMENT = "pergola"  # the one experiment that is created when it is missing
RENAMED = {"photos": "dataset", "rehearse": "smoke_test"}  # parameters by their names in 0.1.0


@dataclass(frozen=True)
class Request:
    """A run to create, from a compiled file (`package`) or an uploaded pipeline."""

    package: Path | None = None
    pipeline: str | None = None
    version: str | None = None  # of the uploaded pipeline; None is the newest
    parameters: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None  # of the run; None is the pipeline's name
    experiment: str = EXPERIMENT
    create_experiment: bool = False
    service_account: str | None = None
    caching: bool | None = None  # None: as compiled
    pipeline_root: str | None = None  # where artifacts go, such as s3://bucket/path


@dataclass(frozen=True)
class RunLine:
    """A run and its state on the server."""

    id: str
    name: str
    state: str  # "PENDING", "RUNNING", "SUCCEEDED", "FAILED", "CANCELED", …
    created_at: datetime | None
    finished_at: datetime | None
    link: str
    error: str = ""
    schedule: str = ""  # id of the recurring run that made it

    def to_json(self) -> dict[str, Any]:
        """Plain data, times as ISO 8601."""
        times = {key: getattr(self, key) for key in ("created_at", "finished_at")}
        return {**vars(self), **{key: t.isoformat() if t else None for key, t in times.items()}}


def submit(connection: KubeflowConnection, request: Request) -> RunLine:
    """Create a run.

    Raises InputError for a file that is not a compiled pipeline, a pipeline, version or experiment
    that does not exist, unknown or missing parameters, and everything that `connect` refuses.
    """
    spec = None if request.package is None else read_spec(request.package)
    client = kubeflow.connect(connection)
    where = connection.address() or "the cluster"
    with kubeflow.explain(where, "to create a run"):
        pipeline, version = None, None
        if spec is None:
            name = _required_pipeline(request)
            pipeline, version = kubeflow.pipeline_version(client, connection, name, request.version)
            spec = pipeline_spec(client, pipeline, version)
        parameters = checked(request.parameters, spec)
        create = request.create_experiment or request.experiment == EXPERIMENT
        experiment = kubeflow.experiment_id(client, connection, request.experiment, create=create)
        made = kubeflow.quietly(
            lambda: client.run_pipeline(
                experiment_id=experiment,
                job_name=request.name or str(spec["pipelineInfo"]["name"]),
                pipeline_package_path=str(request.package) if request.package else None,
                pipeline_id=pipeline,
                version_id=version,
                params=parameters,
                pipeline_root=request.pipeline_root,
                enable_caching=request.caching if request.package else None,
                service_account=request.service_account,
            )
        )
    return line(connection, made)


def submit_ours(
    connection: KubeflowConnection,
    pipeline: str,
    settings: Settings,
    cluster: ClusterSettings,
    request: Request,
) -> RunLine:
    """Compile "training" or "retraining" with these settings and create a run of it.

    request: its `package` is not used. Raises what `compile_to` and `submit` raise.
    """
    from pergola.pipelines.kubeflow import compiled

    request = replace(request, parameters=records.renamed(request.parameters, RENAMED, "parameters"))
    for name, wanted in _OURS.items():
        if not request.parameters.get(name):
            raise InputError(f"{wanted} is missing: pergola submit /workspace/leaves --model leaves.")
    check_model_name(str(request.parameters["model"]))
    with tempfile.TemporaryDirectory(prefix="pergola-") as scratch:
        package = Path(scratch) / f"{pipeline}.yaml"
        compiled.compile_to(package, pipeline, settings=settings, cluster=cluster)
        return submit(connection, replace(request, package=package))


def runs(connection: KubeflowConnection, *, experiment: str | None = None, limit: int = 20) -> list[RunLine]:
    """The newest runs, newest first. Raises InputError for an unknown experiment."""
    client = kubeflow.connect(connection)
    with kubeflow.explain(connection.address() or "the cluster", "to list runs"):
        of = {"namespace": connection.namespace}
        if experiment:
            of["experiment_id"] = kubeflow.experiment_id(client, connection, experiment)
        found = kubeflow.pages(client.list_runs, "runs", sort_by="created_at desc", **of)
        return [line(connection, run) for run in islice(found, limit)]


def line(connection: KubeflowConnection, run: Any) -> RunLine:
    """A run, from the SDK's object."""
    return RunLine(
        id=run.run_id,
        name=run.display_name or "",
        state=run.state or "PENDING",
        created_at=run.created_at,
        finished_at=run.finished_at if _is_time(run.finished_at) else None,
        link=kubeflow.link(connection, "runs", run.run_id),
        error=run.error.message if run.error and run.error.message else "",
        schedule=run.recurring_run_id or "",
    )


def table(lines: list[RunLine]) -> str:
    """The runs as text, one line per run."""
    rows = [(r.state, f"{r.created_at:%Y-%m-%d %H:%M}" if r.created_at else "", r.id, r.name) for r in lines]
    return "\n".join(f"{state:<11}{when:<18}{id:<38}{name}" for state, when, id, name in rows) or "No runs."


def read_spec(package: Path) -> dict[str, Any]:
    """The pipeline in a compiled file. Raises InputError when the file does not hold one."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, if libyaml is installed
    try:
        text = package.read_text(encoding="utf-8")
        documents = [doc for doc in yaml.load_all(text, Loader=loader) if doc]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Compiled pipeline {package} cannot be read: {error}.") from None
    except yaml.YAMLError as error:
        problem = str(error).splitlines()[0]
        raise InputError(
            f"{package} is not valid YAML ({problem}). `pergola compile -o {package}` writes a pipeline."
        ) from None
    if not documents or not isinstance(documents[0], dict) or "pipelineInfo" not in documents[0]:
        raise InputError(f"{package} is not a compiled pipeline. `pergola compile -o {package}` writes one.")
    return dict(documents[0])


def pipeline_spec(client: Any, pipeline: str, version: str) -> dict[str, Any]:
    """The pipeline of an uploaded version."""
    spec = client.get_pipeline_version(pipeline, version).pipeline_spec or {}
    return dict(spec.get("pipeline_spec", spec))


def checked(parameters: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with the types that the pipeline declares; strings are parsed.

    A name of 0.1.0 stands for today's, unless the pipeline itself was compiled by 0.1.0.
    Raises InputError for an unknown parameter (with the nearest known), a missing one, or a wrong type.
    """
    declared = spec.get("root", {}).get("inputDefinitions", {}).get("parameters", {})
    names = {old: new for old, new in RENAMED.items() if old not in declared}
    parameters = records.renamed(parameters, names, "parameters")
    for name in parameters:
        if name not in declared:
            raise InputError(f"The pipeline has no parameter '{name}'.{nearest(name, declared)}")
    missing = [n for n, d in declared.items() if n not in parameters and not _is_optional(d)]
    if missing:
        raise InputError(f"The pipeline needs a value for {', '.join(missing)}: --param {missing[0]}=….")
    return {name: _typed(name, value, declared[name]["parameterType"]) for name, value in parameters.items()}


def _typed(name: str, value: Any, kind: str) -> Any:
    if kind == "STRING":
        return value if isinstance(value, str) else json.dumps(value)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise InputError(f"Parameter {name} must be {_TYPES.get(kind, kind)}, got '{value}'.") from None
    if kind == "NUMBER_INTEGER" and isinstance(value, float) and value.is_integer():
        value = int(value)
    wanted = {
        "NUMBER_INTEGER": int,
        "NUMBER_DOUBLE": (int, float),
        "BOOLEAN": bool,
        "STRUCT": dict,
        "LIST": list,
    }
    is_number_for_bool = isinstance(value, bool) and kind != "BOOLEAN"
    if kind in wanted and (not isinstance(value, wanted[kind]) or is_number_for_bool):  # type: ignore[arg-type]
        raise InputError(f"Parameter {name} must be {_TYPES.get(kind, kind)}, got {json.dumps(value)}.")
    return value


_OURS = {
    "dataset": "DATASET, the path of the images as pods see it,",
    "model": "--model, the name under which the model is released,",
}
_TYPES = {
    "NUMBER_INTEGER": "a whole number",
    "NUMBER_DOUBLE": "a number",
    "BOOLEAN": "true or false",
    "STRUCT": "a JSON object",
    "LIST": "a JSON list",
}


def _is_optional(definition: Mapping[str, Any]) -> bool:
    return bool(definition.get("isOptional")) or "defaultValue" in definition


def _required_pipeline(request: Request) -> str:
    if not request.pipeline:
        raise InputError("Nothing to run: give a compiled file or the name of an uploaded pipeline.")
    return request.pipeline


def _is_time(value: Any) -> bool:
    """Kubeflow gives the year 1970 for what has not happened yet."""
    return isinstance(value, datetime) and value.year > 1970
