"""`pergola forget`: removes images from everything in a workspace, and lists what only a person can do.

Steps' outputs, pages and unpacked archives are made again when they are needed, so they are deleted whole.
Provenance keeps the hash, path and label of an image: from it the versions are listed that learned from it.
Models do not change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from pergola.components import records
from pergola.components.disk import explained
from pergola.components.workspace import Workspace
from pergola.pipelines.forget.evidence import Evidence, evidence_of
from pergola.pipelines.forget.published import HoldingModel, holding_models
from pergola.pipelines.forget.removals import removals


@dataclass(frozen=True)
class ForgetResult:
    """What was removed, and what remains."""

    images: tuple[str, ...]  # ids
    dry_run: bool
    removed: tuple[dict[str, str], ...]  # {"kind", "place"}; with dry_run, what would be
    versions: tuple[dict[str, Any], ...]  # {"model", "version", "source", "files"} that used them
    published: tuple[HoldingModel, ...]  # models that hold one of them; a person has to delete these

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return records.to_dict(self)

    def summary(self) -> str:
        """What was removed, the versions that used the images, and what is left to do."""
        done = "Would remove" if self.dry_run else "Removed"
        lines = [f"{done} {_counted(self.removed)}."] if self.removed else ["Nothing to remove was found."]
        if self.dry_run:
            lines += [f"  {one['kind']}  {one['place']}" for one in self.removed]
        lines += ["Versions that used them:"] if self.versions else ["No recorded version used them."]
        lines += [f"  {_use(one)}" for one in self.versions]
        return "\n".join([*lines, *self._left_to_do()])

    def _left_to_do(self) -> Iterable[str]:
        if self.published:
            yield (
                "These models hold one of them as a warm-up request. A published version never changes: "
                "release another version, then delete them:"
            )
            yield from (f"  {one.place}" for one in self.published)
        yield "What remains: hash, path and label in records, for the list above; the weights of models."
        yield "Left to you:"
        sources = sorted({one["source"] for one in self.versions})
        yield f"  delete the files from the data set{''.join(f' {one}' for one in sources)}"
        if self.versions:
            yield "  to have models without them: `pergola run`, then release the version that it makes"
        yield (
            "  delete copies outside of the workspace: samples and exports of feedback, logs and disks of "
            "other servers, Kubeflow's artifacts, backups"
        )


def forget(
    workspace: Workspace,
    images: Sequence[str],
    *,
    store: str | None = None,
    logs: Iterable[str] = (),
    dry_run: bool = False,
) -> ForgetResult:
    """Remove images from a workspace. A removal that was killed continues when it is repeated.

    images: SHA-256 of files, or paths of them.  store: a model store whose versions are looked through.
    logs: prefixes of request logs outside of the workspace.
    Raises InputError for what is neither a hash nor a file, and when a run holds the workspace.
    """
    evidence = evidence_of(workspace, images)
    if dry_run:
        return _found(workspace, evidence, store, logs, dry_run=True)
    with workspace.lock("the removal of images"), explained(workspace.root):
        return _found(workspace, evidence_of(workspace, images), store, logs, dry_run=False)


def _found(
    workspace: Workspace, evidence: Evidence, store: str | None, logs: Iterable[str], *, dry_run: bool
) -> ForgetResult:
    published = holding_models(workspace, evidence.ids, store)
    todo = list(removals(workspace, evidence, logs))
    for one in todo if not dry_run else ():
        one.do()
    return ForgetResult(
        images=evidence.asked,
        dry_run=dry_run,
        removed=tuple({"kind": one.kind, "place": one.place} for one in todo),
        versions=evidence.versions,
        published=tuple(published),
    )


def _counted(removed: Iterable[dict[str, str]]) -> str:
    kinds = Counter(one["kind"] for one in removed)
    return ", ".join(f"{kind} ({count})" for kind, count in kinds.items())


def _use(version: dict[str, Any]) -> str:
    files = "; ".join(
        f"{file['path']} as {file['label']}, "
        + (f"excluded ({file['excluded']})" if file["excluded"] else f"{file['split']} split")
        for file in version["files"]
    )
    return f"{version['model']}/{version['version']}: {files}"
