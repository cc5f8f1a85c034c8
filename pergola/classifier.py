"""`pergola.load`: a trained model in this process, which predicts exactly what a server would reply."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
from PIL.Image import Image

from pergola import extras
from pergola.components.errors import InputError
from pergola.local_run import library_defaults, open_workspace, unguarded_main
from pergola.predictions import Predictions
from pergola.serving.wire import contract, images
from pergola.serving.wire.checksums import CHECKSUMS

if TYPE_CHECKING:
    from pergola.components.artifacts.evaluation import Evaluation
    from pergola.components.data.shard_reader import ShardImage
    from pergola.components.evaluation.loaded_model import LoadedModel

ImageLike: TypeAlias = str | Path | bytes | np.ndarray[Any, Any] | Image

BATCH_SIZE = 32  # as the client sends them
GRAPH = "saved_model.pb"


def load(
    name_or_path: str | Path, version: int | None = None, workspace: str | Path | None = None
) -> Classifier:
    """A published model, or the SavedModel in a folder.

        pergola.load("leaves")                               # the champion
        pergola.load("leaves", 3)                            # version 3
        pergola.load("pergola-work/models/leaves/3")         # a folder with a saved_model.pb

    workspace: where the model is published; by default PERGOLA_WORKSPACE or ./pergola-work.
    Raises InputError when there is no such model or version, StepError when it cannot be loaded.
    """
    library_defaults()
    folder = Path(name_or_path).expanduser()
    with extras.explained("pergola.load"):
        extras.require("tensorflow")
        if (folder / GRAPH).is_file():
            if version is not None:
                raise InputError(
                    f"version={version}: '{name_or_path}' is a folder of one version. Leave version out."
                )
            folder = folder.absolute()
            if (folder / CHECKSUMS).is_file():
                _check(folder, "pergola versions --repair")
            numbered = folder.name.isdecimal()
            name = folder.parent.name if numbered else folder.name
            return Classifier(folder, name, int(folder.name) if numbered else 0)
        from pergola.pipelines.release.resolve import resolve_version

        text = str(name_or_path) if version is None else f"{name_or_path}/{version}"
        place = open_workspace(workspace)
        found = resolve_version(place, text)
        if found.folder.is_relative_to(place.models):  # else it is the registry's copy, which was verified
            _check(found.folder, f"pergola versions --repair --workspace {shlex.quote(str(place.root))}")
        return Classifier(found.folder, found.model, found.version)


class Classifier:
    """A model version in this process. Safe to use from several threads.

    model: its name.  version: its number, 0 for a folder without one.  labels: its classes, in the order of
    the columns of probabilities. `close()` frees the memory of the network before Python does.
    """

    def __init__(self, folder: Path, model: str, version: int) -> None:
        from pergola.components.evaluation.loaded_model import LoadedModel

        self._stack = ExitStack()
        self._served: LoadedModel | None = self._stack.enter_context(LoadedModel(folder))
        self.model = model
        self.version = version
        self.labels = self._served.labels()

    def predict(self, images: ImageLike | Iterable[ImageLike]) -> Predictions:
        """What is in images: labels, probabilities, version.

            classifier.predict("new.jpg")[0].label
            classifier.predict(["a.jpg", "b.png"]).to_pandas()

        images: one or several of: a path, the bytes of an image file, a uint8 array (H, W), (H, W, 1),
        (H, W, 3) or (H, W, 4), a PIL image; or an array (N, H, W, C). They are turned upright as their EXIF
        orientation says. Raises InputError that says which image cannot be used.
        """
        served = self._open()
        named = [(_name(image, i), image) for i, image in enumerate(_listed(images))]
        if not named:
            raise InputError("Got no images. Give at least one.")
        replies = []
        for start in range(0, len(named), BATCH_SIZE):
            replies.append(served.reply([_encoded(*pair) for pair in named[start : start + BATCH_SIZE]]))
        joined = {name: np.concatenate([reply[name] for reply in replies]) for name in replies[0]}
        decisions = joined.get(contract.DECISION)
        return Predictions(
            labels=_texts(joined[contract.LABEL]),
            probability=joined[contract.PROBABILITY].ravel(),
            probabilities=joined[contract.PROBABILITIES],
            classes=self.labels,
            model=self.model,
            version=self.version,
            decisions=None if decisions is None else _texts(decisions),
            images=tuple(name for name, _ in named),
        )

    def evaluate(self, dataset: str | Path) -> Evaluation:
        """How well the model does on a data set with labels: accuracy, macro F1 and more, with 95% intervals.

            classifier.evaluate("leaves-of-2027/").accuracy

        dataset: any that `pergola.run` takes. All its readable images count, whatever split it brings; images
        of a class that the model does not know count as errors.
        Raises InputError when it has no images with labels.
        """
        served = self._open()
        with extras.explained("Classifier.evaluate"), unguarded_main():
            from pergola.components.evaluation.calibration import calibration
            from pergola.components.evaluation.evaluate import EvaluateSettings, summarise
            from pergola.components.evaluation.scoring import Scorer
            from pergola.components.progress import silent

            with tempfile.TemporaryDirectory(prefix="pergola-evaluate-") as scratch:
                source, rows = _scanned(Path(dataset), Path(scratch))
                labels = (*self.labels, *sorted({*rows["label"]} - {*self.labels}))
                settings = EvaluateSettings()
                columns = list(range(len(self.labels)))
                with silent() as bar:
                    scorer = Scorer(served.probabilities, columns, len(labels), settings.batch_size, bar)
                    scores = scorer.score(_labelled(source, rows, labels))
            calibrated = calibration(scores.probabilities, scores.labels, seed=settings.seed)
            return summarise(scores, None, labels, settings, calibrated)

    def close(self) -> None:
        """Free the network. The classifier cannot be used afterwards."""
        self._served = None
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Classifier(model='{self.model}', version={self.version}, {len(self.labels)} classes)"

    def _open(self) -> LoadedModel:
        if self._served is None:
            raise InputError(f"{self!r} is closed. Load it again with pergola.load.")
        return self._served


def _check(folder: Path, command: str) -> None:
    """Raises StepError for a published version whose files are not those that were published."""
    from pergola.components.errors import StepError
    from pergola.components.store.publish import damage_of

    if problem := damage_of(folder):
        raise StepError(f"The model is damaged: {problem} `{command}` publishes it again from the registry.")


def _listed(images: ImageLike | Iterable[ImageLike]) -> Iterable[ImageLike]:
    """One image as a list of one."""
    single = isinstance(images, str | Path | bytes | Image)
    if single or (isinstance(images, np.ndarray) and images.ndim in (2, 3)):
        return [images]  # type: ignore[list-item]
    return images  # type: ignore[return-value]


def _name(image: ImageLike, index: int) -> str:
    return str(image) if isinstance(image, str | Path) else f"image {index}"


def _encoded(name: str, image: ImageLike) -> bytes:
    """The file that a server would be sent. Raises InputError that names the image."""
    try:
        if isinstance(image, Image):
            turned = images.upright(images.flat(image), images.orientation(image, b""))
            return images.prepare(np.asarray(turned))
        return images.prepare(image)
    except FileNotFoundError:
        raise InputError(f"There is no image at '{name}'. Check the path.") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{name}: {error}") from error


def _texts(labels: np.ndarray[Any, Any]) -> tuple[str, ...]:
    return tuple(label.decode(errors="replace") for label in labels.ravel().tolist())


def _scanned(dataset: Path, scratch: Path) -> tuple[Any, Any]:
    """The source of a data set, and a table of its readable images: path, label, id."""
    from pergola.components.artifacts.data import CRITICAL, Manifest
    from pergola.components.data.manifest.scan import ScanSettings, scan
    from pergola.components.data.sources.source import open_source

    dataset = dataset.expanduser().absolute()
    if not dataset.exists():
        raise InputError(f"There are no images at '{dataset}': no such file or folder. Check the path.")
    settings = ScanSettings()
    source = open_source(dataset, settings, scratch)
    if doubts := [finding.message for finding in source.findings if finding.severity == CRITICAL]:
        raise InputError(f"'{dataset}': {doubts[0]}")
    scan(source, scratch / "manifest", settings)
    rows = Manifest.table(scratch / "manifest", ["path", "label", "id", "reason"])
    return source, rows[rows["reason"].isna() & (rows["label"] != "")]


def _labelled(source: Any, rows: Any, labels: tuple[str, ...]) -> Iterator[ShardImage]:
    from pergola.components.data.shard_reader import ShardImage

    places = {label: place for place, label in enumerate(labels)}
    for path, label, id in zip(rows["path"], rows["label"], rows["id"], strict=True):
        yield ShardImage(id, places[label], _encoded(path, source.read(path)))
