"""The registry: model versions and the champion. EDGE: MLflow.

MLflow's version number is *the one number*: that of the folder, the reply and the log. Every call is
idempotent: a version is found by its run and the SHA-256 of its model.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pergola.components.errors import StepError
from pergola.components.release.registry.connection import open_client, sqlite_path, step_errors
from pergola.components.release.registry.runs import Runs, is_intact, quoted
from pergola.components.release.registry.versions import (
    CHAMPION,
    EXPORT_KEY,
    PREVIOUS,
    PUBLISHED,
    REGISTERED,
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
RESTORED = "pergola.restored"  # tag of a version that was registered from its folder


class Registry:
    """Runs and versions in the MLflow store at `tracking_uri`, which is created if missing.

    tracking_uri: "sqlite:////path/mlflow.db", or the http(s) address of an MLflow server. Artifacts of a
    SQLite store are kept in "mlartifacts" beside it.  Raises StepError when the store cannot be used.
    """

    def __init__(self, tracking_uri: str, experiment: str = EXPERIMENT) -> None:
        self._uri = tracking_uri
        self._client, found = open_client(tracking_uri, experiment)
        self.runs = Runs(self._client, found, sqlite_path(tracking_uri))

    def register(
        self, model: str, run: str, saved_model: Path, *, sha256: str, export_key: str = ""
    ) -> RegisteredVersion:
        """The version of `model` that holds this SavedModel of this run, created if missing.

        The folder is stored as an artifact of the run, so TF-Serving can load what is registered.
        """
        with step_errors():
            if (known := self._find(model, run, sha256)) is not None:
                if not is_intact(self._uri, known):
                    self.runs.upload(known.run, saved_model, sha256)
                return known
            self._create_model(model)
            source = self.runs.upload(run, saved_model, sha256)
            tags = {SHA256: sha256, EXPORT_KEY: export_key, STATUS: REGISTERED}
            made = self._client.create_model_version(model, source, run, tags=tags)
            return _version(made, champion=False)

    def restore(self, model: str, version: int, saved_model: Path, *, sha256: str) -> RegisteredVersion:
        """Register a published version under the number that it has already, after the registry was lost.

        Raises StepError when a later number is taken: MLflow counts upwards only.
        """
        with step_errors():
            run = self.runs.open(f"restored-{model}-{version}-{sha256[:12]}", model)
            self._create_model(model)
            source = self.runs.upload(run, saved_model, sha256)
            tags = {SHA256: sha256, STATUS: PUBLISHED, RESTORED: "true"}
            while (made := self._client.create_model_version(model, source, run, tags=tags)) is not None:
                if int(made.version) == version:
                    self.runs.finish(run)
                    return _version(made, champion=False)
                self._client.delete_model_version(model, str(made.version))
                if int(made.version) > version:
                    break
        raise StepError(
            f"Version {version} of '{model}' is published, but not in the registry, which is at "
            f"{int(made.version) - 1} already. Restore the registry from a backup (docs/operations.md)."
        )

    def versions(self, model: str) -> tuple[RegisteredVersion, ...]:
        """All versions of a model, newest first; empty when the model does not exist."""
        with step_errors():
            champion = self._alias(model)
            found = self._search(f"name = '{quoted(model)}'")
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
        for found in self._search(f"name = '{quoted(model)}'"):
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

    def _tag(self, model: str, version: int, key: str, value: str) -> None:
        self._client.set_model_version_tag(model, str(version), key, value)


def _version(found: ModelVersion, *, champion: bool) -> RegisteredVersion:
    return of_tags(found.name, int(found.version), str(found.run_id), found.tags, champion=champion)
