"""The runs in the registry: their parameters, metrics, reports and SavedModels. EDGE: MLflow.

Every call is idempotent: a run is found by its tag, and what is logged again changes nothing.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pergola.components import digest
from pergola.components.errors import InputError, StepError
from pergola.components.release.registry import tables
from pergola.components.release.registry.connection import artifacts_of, sqlite_path, step_errors
from pergola.components.release.registry.versions import FINGERPRINT, RUN_ID, RUN_KEY, RegisteredVersion

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

FILES = "pergola.files"  # tag of a run: name -> SHA-256 of its reports and records
REPORT = "report.html"  # among the files of a run


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
        return bool(sums == logged and digest.of_folder(place / folder_of(version.sha256)) == version.sha256)
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


class Runs:
    """The runs of one experiment. `Registry.runs` gives it."""

    def __init__(self, client: MlflowClient, experiment: str, path: Path | None) -> None:
        self._client, self._experiment = client, experiment
        self._path = path  # of a SQLite store, beside which artifacts are kept

    def open(self, key: str, name: str = "", *, adopt: str = "") -> str:
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

    def upload(self, run: str, saved_model: Path, sha256: str) -> str:
        """Store a SavedModel with a run, in place of a damaged copy. Gives its address."""
        place = folder_of(sha256)
        if self._path is None:
            self._client.log_artifacts(run, str(saved_model), place)
        else:
            target = artifacts_of(self._path, run) / place
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(saved_model, target)
        return f"{self._client.get_run(run).info.artifact_uri}/{place}"

    def fetch(self, version: RegisteredVersion, folder: Path) -> Path:
        """The registry's copy of a version's SavedModel, written below `folder`.

        Raises StepError when there is none, or it is not what was registered.
        """
        with step_errors():
            place = folder_of(version.sha256)
            if self._path is None:
                got = Path(self._client.download_artifacts(version.run, place, str(folder)))
            else:
                source = artifacts_of(self._path, version.run) / place
                got = Path(shutil.copytree(source, folder / place))
        if digest.of_folder(got) != version.sha256:
            raise StepError(f"The registry's copy of version {version.version} is damaged, too.")
        return got

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
        query = f"tags.`{RUN_KEY}` = '{quoted(key)}'"
        found = self._client.search_runs([self._experiment], query, max_results=1)
        return str(found[0].info.run_id) if found else ""

    def _put(self, run: str, file: Path) -> None:
        """Store a file with a run, directly where it is a folder: MLflow remembers where that was."""
        if self._path is None:
            self._client.log_artifact(run, str(file))
        else:
            folder = artifacts_of(self._path, run)
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / file.name)

    def _steps(self, run: str, key: str) -> set[int]:
        return {metric.step for metric in self._client.get_metric_history(run, key)}

    def _batches(
        self, run: str, metrics: Sequence[Any] = (), params: Sequence[Any] = (), tags: Sequence[Any] = ()
    ) -> None:
        """MLflow accepts at most 1,000 metrics, 100 parameters and 100 tags in one call."""
        for start in range(0, max(len(metrics), 10 * len(params), 10 * len(tags)), 1000):
            few = slice(start // 10, start // 10 + 100)
            self._client.log_batch(run, metrics[start : start + 1000], params[few], tags[few])


def folder_of(sha256: str) -> str:
    """Of a SavedModel among the artifacts of a run: two models of one run must not share a folder."""
    return f"model-{sha256[:12]}"


def quoted(text: str) -> str:
    if "'" in text or "`" in text:
        raise InputError(
            f"'{text}' contains a quotation mark, which the registry cannot search for. Use another name."
        )
    return text
