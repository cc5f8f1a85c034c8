"""The registry: runs, their metrics, model versions and the champion. EDGE: MLflow.

MLflow's version number is *the one number*: that of the folder, the reply and the log. Every call is
idempotent: a run is found by its tag, a version by its run and the SHA-256 of its model.

Importing MLflow takes 3 to 6 s. `champion_of` and `version_of` do without it on a SQLite store.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pergola.components import digest
from pergola.components.errors import InputError, StepError
from pergola.components.release.registry import tables
from pergola.components.release.registry.connection import (
    artifacts_of,
    open_client,
    sqlite_path,
    step_errors,
)
from pergola.components.release.registry.versions import (
    CHAMPION,
    EXPORT_KEY,
    FINGERPRINT,
    PREVIOUS,
    PUBLISHED,
    REGISTERED,
    RUN_ID,
    RUN_KEY,
    SHA256,
    STATUS,
    WITHDRAWN,
    RegisteredVersion,
    of_tags,
    previous_of,
)

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

EXPERIMENT = "pergola"
FILES = "pergola.files"  # tag of a run: name -> SHA-256 of its reports and records
RESTORED = "pergola.restored"  # tag of a version that was registered from its folder
REPORT = "report.html"  # among the files of a run


def champion_of(tracking_uri: str, model: str) -> RegisteredVersion | None:
    """The champion of a model; None when there is none yet.

    A SQLite store is read directly, in a few milliseconds. Any other store, and one whose tables are not
    as expected, is read through MLflow.
    """
    path = sqlite_path(tracking_uri)
    if path is None:
        return Registry(tracking_uri).champion(model)
    if not path.is_file():
        return None
    try:
        return tables.champion_in(path, model)
    except sqlite3.Error:
        return Registry(tracking_uri).champion(model)


def version_of(tracking_uri: str, model: str, version: int) -> RegisteredVersion | None:
    """A version of a model; None when it does not exist. Reads the store as `champion_of` does."""
    path = sqlite_path(tracking_uri)
    if path is not None and path.is_file():
        try:
            return tables.version_in(path, model, version)
        except sqlite3.Error:
            pass
    found = Registry(tracking_uri).versions(model)
    return next((item for item in found if item.version == version), None)


def numbers_of(tracking_uri: str, model: str) -> set[int]:
    """The numbers of a model's versions. Reads the store as `champion_of` does."""
    path = sqlite_path(tracking_uri)
    if path is not None and not path.is_file():
        return set()
    if path is not None:
        try:
            return tables.numbers_in(path, model)
        except sqlite3.Error:
            pass
    return {version.version for version in Registry(tracking_uri).versions(model)}


def is_intact(tracking_uri: str, version: RegisteredVersion) -> bool:
    """Whether the files that the registry keeps of a version are those that it was given.

    Those in a folder beside a SQLite store are read; of any other store it is taken for granted.
    """
    path = sqlite_path(tracking_uri)
    if path is None:
        return True
    place = artifacts_of(path, version.run)
    try:
        logged = json.loads(tables.tag_in(path, version.run, FILES) or "{}")
        sums = {name: digest.of_file(place / name) for name in logged}
        return bool(sums == logged and digest.of_folder(place / _folder_of(version.sha256)) == version.sha256)
    except (OSError, ValueError, sqlite3.Error):
        return False


def has_run(tracking_uri: str, run: str) -> bool:
    """Whether a run and its reports were logged. Of a store that is not SQLite it is taken for granted."""
    path = sqlite_path(tracking_uri)
    try:
        return path is None or bool(tables.tag_in(path, run, FILES))
    except sqlite3.Error:
        return False


class RunReport(NamedTuple):
    """A run with a report: MLflow's id, the run's own, and the fingerprint of its data."""

    mlflow_run: str
    run: str
    fingerprint: str


class Registry:
    """Runs and versions in the MLflow store at `tracking_uri`, which is created if missing.

    tracking_uri: "sqlite:////path/mlflow.db", or the http(s) address of an MLflow server. Artifacts of a
    SQLite store are kept in "mlartifacts" beside it.  Raises StepError when the store cannot be used.
    """

    def __init__(self, tracking_uri: str, experiment: str = EXPERIMENT) -> None:
        self._uri, self._path = tracking_uri, sqlite_path(tracking_uri)
        self._client, self._experiment = open_client(tracking_uri, experiment)

    def run(self, key: str, name: str = "", *, adopt: str = "") -> str:
        """MLflow's id of the run that is tagged with `key`; made when there is none.

        A run that was killed is found again and continued.  adopt: another key; the run that has it takes
        `key` instead, where no run has `key` yet. Epochs are logged before it is known what a run leads to.
        """
        with step_errors():
            if found := self._run_with(key):
                return found
            if adopt and (found := self._run_with(adopt)):
                self._client.set_tag(found, RUN_KEY, key)
                return found
            made = self._client.create_run(self._experiment, tags={RUN_KEY: key}, run_name=name or key)
            return str(made.info.run_id)

    def log(
        self,
        run: str,
        *,
        params: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float | None] | None = None,
        tags: Mapping[str, str] | None = None,
        files: Sequence[Path] = (),
    ) -> None:
        """Log the parameters, metrics, tags and files of a run. Logging the same again changes nothing.

        params: "section.key" -> value; values are truncated to MLflow's 6,000 characters.
        metrics: final values; None is skipped.  files: reports and records, uploaded as artifacts of the run.
        """
        from mlflow.entities import Metric, Param, RunTag

        with step_errors():
            known = self._client.get_run(run).data
            new_params = [
                Param(key, str(value)[:6000])
                for key, value in (params or {}).items()
                if key not in known.params
            ]
            now = int(time.time() * 1000)
            new_metrics = [
                Metric(key, float(value), now, 0)
                for key, value in (metrics or {}).items()
                if value is not None and known.metrics.get(key) != float(value)
            ]
            new_tags = [RunTag(key, str(value)) for key, value in (tags or {}).items()]
            self._batches(run, new_metrics, new_params, new_tags)
            for file in files:
                self._put(run, file)
            if files:
                sums = {file.name: digest.of_file(file) for file in files}
                self._client.set_tag(run, FILES, json.dumps(sums))

    def log_epochs(self, run: str, history: Sequence[Mapping[str, float]], first: int = 1) -> None:
        """Log the metrics of each epoch. Steps that were logged before stay unchanged.

        first: the step of the first entry.
        """
        from mlflow.entities import Metric

        with step_errors():
            logged = {key: self._steps(run, key) for key in {key for figures in history for key in figures}}
            now = int(time.time() * 1000)
            metrics = [
                Metric(key, float(value), now, step)
                for step, figures in enumerate(history, start=first)
                for key, value in figures.items()
                if step not in logged[key]
            ]
            self._batches(run, metrics)

    def finish(self, run: str, *, failed: bool = False) -> None:
        """Mark a run as finished or failed."""
        with step_errors():
            self._client.set_terminated(run, "FAILED" if failed else "FINISHED")

    def register(
        self, model: str, run: str, saved_model: Path, *, sha256: str, export_key: str = ""
    ) -> RegisteredVersion:
        """The version of `model` that holds this SavedModel of this run, created if missing.

        The folder is stored as an artifact of the run, so TF-Serving can load what is registered.
        """
        with step_errors():
            if (known := self._find(model, run, sha256)) is not None:
                if not is_intact(self._uri, known):
                    self._upload(known.run, saved_model, sha256)
                return known
            self._create_model(model)
            source = self._upload(run, saved_model, sha256)
            tags = {SHA256: sha256, EXPORT_KEY: export_key, STATUS: REGISTERED}
            made = self._client.create_model_version(model, source, run, tags=tags)
            return _version(made, champion=False)

    def restore(self, model: str, version: int, saved_model: Path, *, sha256: str) -> RegisteredVersion:
        """Register a published version under the number that it has already, after the registry was lost.

        Raises StepError when a later number is taken: MLflow counts upwards only.
        """
        with step_errors():
            run = self.run(f"restored-{model}-{version}-{sha256[:12]}", model)
            self._create_model(model)
            source = self._upload(run, saved_model, sha256)
            tags = {SHA256: sha256, STATUS: PUBLISHED, RESTORED: "true"}
            while (made := self._client.create_model_version(model, source, run, tags=tags)) is not None:
                if int(made.version) == version:
                    self.finish(run)
                    return _version(made, champion=False)
                self._client.delete_model_version(model, str(made.version))
                if int(made.version) > version:
                    break
        raise StepError(
            f"Version {version} of '{model}' is published, but not in the registry, which is at "
            f"{int(made.version) - 1} already. Restore the registry from a backup (docs/operations.md)."
        )

    def fetch(self, version: RegisteredVersion, folder: Path) -> Path:
        """The registry's copy of a version's SavedModel, written below `folder`.

        Raises StepError when there is none, or it is not what was registered.
        """
        with step_errors():
            place = _folder_of(version.sha256)
            if self._path is None:
                got = Path(self._client.download_artifacts(version.run, place, str(folder)))
            else:
                source = artifacts_of(self._path, version.run) / place
                got = Path(shutil.copytree(source, folder / place))
        if digest.of_folder(got) != version.sha256:
            raise StepError(f"The registry's copy of version {version.version} is damaged, too.")
        return got

    def _put(self, run: str, file: Path) -> None:
        """Store a file with a run, directly where it is a folder: MLflow remembers where that was."""
        if self._path is None:
            self._client.log_artifact(run, str(file))
        else:
            folder = artifacts_of(self._path, run)
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / file.name)

    def _upload(self, run: str, saved_model: Path, sha256: str) -> str:
        """Store a SavedModel with a run, in place of a damaged copy. Gives its address."""
        place = _folder_of(sha256)
        if self._path is None:
            self._client.log_artifacts(run, str(saved_model), place)
        else:
            target = artifacts_of(self._path, run) / place
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(saved_model, target)
        return f"{self._client.get_run(run).info.artifact_uri}/{place}"

    def versions(self, model: str) -> tuple[RegisteredVersion, ...]:
        """All versions of a model, newest first; empty when the model does not exist."""
        with step_errors():
            champion = self._alias(model)
            found = self._search(f"name = '{_quoted(model)}'")
            versions = (_version(item, champion=int(item.version) == champion) for item in found)
            return tuple(sorted(versions, key=lambda item: -item.version))

    def models(self) -> tuple[str, ...]:
        """Names of the registered models, sorted."""
        with step_errors():
            return tuple(sorted(model.name for model in self._client.search_registered_models()))

    def champion(self, model: str) -> RegisteredVersion | None:
        """The champion; None when there is none yet."""
        return next((version for version in self.versions(model) if version.champion), None)

    def promote(self, model: str, version: int) -> int | None:
        """Make a version the champion and return the previous champion. The alias moves last, atomically.

        Promoting it again returns the previous champion of the first time.
        """
        with step_errors():
            before = self._alias(model)
            if before == version:
                return previous_of(self._client.get_model_version(model, str(version)).tags)
            if before is not None:
                self._tag(model, version, PREVIOUS, str(before))
            self._tag(model, version, STATUS, PUBLISHED)
            self._client.set_registered_model_alias(model, CHAMPION, str(version))
            return before

    def clear_champion(self, model: str) -> None:
        """Remove the champion's alias: nothing is released."""
        with step_errors():
            if self._alias(model) is not None:
                self._client.delete_registered_model_alias(model, CHAMPION)

    def withdraw(self, model: str, version: int) -> int | None:
        """Mark a version as no longer served and return the current champion.

        If it was the champion, the alias moves back to the previous champion, or is removed.
        """
        with step_errors():
            self._tag(model, version, STATUS, WITHDRAWN)
            champion = self._alias(model)
            if champion != version:
                return champion
            before = previous_of(self._client.get_model_version(model, str(version)).tags)
            if before is None:
                self._client.delete_registered_model_alias(model, CHAMPION)
            else:
                self._client.set_registered_model_alias(model, CHAMPION, str(before))
            return before

    def reports(self) -> list[RunReport]:
        """The runs with a report among their files."""
        from mlflow.entities import ViewType

        with step_errors():
            runs, token = [], None
            while True:
                page = self._client.search_runs(
                    [self._experiment], run_view_type=ViewType.ALL, page_token=token
                )
                runs += page
                token = page.token
                if not token:
                    break
            return [
                RunReport(run.info.run_id, run.data.tags.get(RUN_ID, ""), run.data.tags.get(FINGERPRINT, ""))
                for run in runs
                if any(file.path == REPORT for file in self._client.list_artifacts(run.info.run_id))
            ]

    def remove_report(self, run: str) -> None:
        """Delete the report of a run from its files."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        with step_errors():
            found = self._client.get_run(run)
            get_artifact_repository(found.info.artifact_uri).delete_artifacts(REPORT)
            sums = json.loads(found.data.tags.get(FILES, "{}"))
            if sums.pop(REPORT, None):
                self._client.set_tag(run, FILES, json.dumps(sums))

    def _run_with(self, key: str) -> str:
        query = f"tags.`{RUN_KEY}` = '{_quoted(key)}'"
        found = self._client.search_runs([self._experiment], query, max_results=1)
        return str(found[0].info.run_id) if found else ""

    def _alias(self, model: str) -> int | None:
        from mlflow.exceptions import MlflowException

        try:
            return int(self._client.get_model_version_by_alias(model, CHAMPION).version)
        except MlflowException as error:
            if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                return None
            raise

    def _find(self, model: str, run: str, sha256: str) -> RegisteredVersion | None:
        """The version that holds this model: of this run, or one that was restored from its folder."""
        for found in self._search(f"name = '{_quoted(model)}'"):
            if found.tags.get(SHA256) == sha256 and (found.run_id == run or RESTORED in found.tags):
                return _version(found, champion=int(found.version) == self._alias(model))
        return None

    def _search(self, query: str) -> Iterator[ModelVersion]:
        token = None
        while True:
            page = self._client.search_model_versions(query, max_results=200, page_token=token)
            yield from page
            token = page.token
            if not token:
                return

    def _create_model(self, model: str) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.create_registered_model(model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _steps(self, run: str, key: str) -> set[int]:
        return {metric.step for metric in self._client.get_metric_history(run, key)}

    def _tag(self, model: str, version: int, key: str, value: str) -> None:
        self._client.set_model_version_tag(model, str(version), key, value)

    def _batches(
        self, run: str, metrics: Sequence[Any] = (), params: Sequence[Any] = (), tags: Sequence[Any] = ()
    ) -> None:
        """MLflow accepts at most 1,000 metrics, 100 parameters and 100 tags in one call."""
        for start in range(0, max(len(metrics), 10 * len(params), 10 * len(tags)), 1000):
            few = slice(start // 10, start // 10 + 100)
            self._client.log_batch(run, metrics[start : start + 1000], params[few], tags[few])


def _folder_of(sha256: str) -> str:
    """Of a SavedModel among the artifacts of a run: two models of one run must not share a folder."""
    return f"model-{sha256[:12]}"


def _version(found: ModelVersion, *, champion: bool) -> RegisteredVersion:
    return of_tags(found.name, int(found.version), str(found.run_id), found.tags, champion=champion)


def _quoted(text: str) -> str:
    if "'" in text or "`" in text:
        raise InputError(
            f"'{text}' contains a quotation mark, which the registry cannot search for. Use another name."
        )
    return text
