"""Small data sets in the forms that people and tools write, each with what is to come of it.

`CASES` is also the tables in docs/data.md, which `scripts/reference` writes.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.images import pixels, png

CLASSES = "ash elm oak"


@dataclass(frozen=True)
class Case:
    """A data set and what is expected of it."""

    shape: str  # for the documentation: what it looks like
    images: tuple[str, ...]
    texts: Mapping[str, str] = field(default_factory=dict)  # other files
    open: str = ""  # the file that is given instead of the folder
    settings: Mapping[str, object] = field(default_factory=dict)
    result: str = ""  # for the documentation, where it is read
    rows: Mapping[tuple[str | None, str], int] = field(default_factory=dict)  # (split, label) -> images
    findings: tuple[tuple[str, str, str], ...] = ()  # check, severity, a part of the message
    refused: str = ""  # a part of the error, where it is not read

    def write(self, root: Path) -> Path:
        """Write the files below `root`. Returns what is to be opened."""
        root.mkdir(parents=True, exist_ok=True)
        for number, name in enumerate(self.images):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(png(pixels(0, number, size=8)))
        for name, text in self.texts.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            if name.endswith("/"):
                (root / name).mkdir()
            else:
                (root / name).write_text(text, encoding="utf-8")
        return root / self.open


def many(*patterns: str, count: int = 2, classes: str = CLASSES) -> tuple[str, ...]:
    """Paths with {c} for each class and {k} for each number."""
    pairs = list(itertools.product(classes.split(), range(count)))
    return tuple(dict.fromkeys(p.format(c=c, k=k) for p in patterns for c, k in pairs))


def each(*splits: str | None, count: int = 2, classes: str = CLASSES) -> dict[tuple[str | None, str], int]:
    """The same number of rows for each class in each of the splits."""
    return {(split, label): count for split in splits for label in classes.split()}


def listed(paths: Iterable[str], head: str = "path,label", row: str = "{path},{label}") -> str:
    """A CSV of paths whose class is a part of their name: ash0.png."""
    lines = [
        row.format(
            path=path, stem=Path(path).stem, name=Path(path).name, label=Path(path).stem.rstrip("0123456789")
        )
        for path in paths
    ]
    return "\n".join([head, *lines]) + "\n"


def one_hot(paths: Iterable[str], head: str = "filename") -> str:
    names = CLASSES.split()
    lines = [
        f"{Path(p).name}," + ",".join(str(int(Path(p).stem.startswith(n))) for n in names) for p in paths
    ]
    return "\n".join([f"{head}, " + ", ".join(names), *lines]) + "\n"


def coco(paths: Iterable[str], also: Mapping[int, int] = {}) -> str:
    names = CLASSES.split()
    paths = list(paths)
    label = [next(n for n, name in enumerate(names) if Path(p).stem.startswith(name)) for p in paths]
    pairs = [*enumerate(label), *also.items()]
    return json.dumps(
        {
            "images": [{"id": n, "file_name": Path(path).name} for n, path in enumerate(paths)],
            "annotations": [{"id": n, "image_id": i, "category_id": c} for n, (i, c) in enumerate(pairs)],
            "categories": [{"id": n, "name": name} for n, name in enumerate(names)],
        }
    )


def found(entries: Iterable) -> Counter[tuple[str | None, str]]:
    """(split, label) -> the number of entries without a reason."""
    return Counter((entry.given_split, entry.label) for entry in entries if entry.reason is None)


FLAT = many("images/{c}{k}.png")
TRAIN_FLAT, TEST_FLAT = many("train/{c}{k}.png"), many("test/x{c}{k}.png")
BOTH = each("train", "test")

FOLDERS = (
    Case("`CLASS/*.png`", many("{c}/{k}.png"), result="a class for each folder", rows=each(None)),
    Case(
        "`photos/CLASS/*.png`, with a README beside",
        many("photos/{c}/{k}.png"),
        {"README.md": "text"},
        result="lone outer folders are stepped into",
        rows=each(None),
        findings=(("left_out", "info", "1 file is left out: no images (1 .md), such as 'README.md'"),),
    ),
    Case(
        "`train/CLASS`, `test/CLASS`",
        many("train/{c}/{k}.png", "test/{c}/{k}.png"),
        result="the split is kept",
        rows=BOTH,
    ),
    Case(
        "`train`, `dev`, `holdout`",
        many("train/{c}/{k}.png", "dev/{c}/{k}.png", "Holdout/{c}/{k}.png"),
        result="the split is kept: `dev`, `val`, `valid` are validation, `eval`, `holdout` are test",
        rows=each("train", "validation", "test"),
    ),
    Case(
        "`seg_train/seg_train/CLASS`, `seg_test/seg_test/CLASS`, `seg_pred/seg_pred/*.png`",
        many(
            "seg_train/seg_train/{c}/{k}.png", "seg_test/seg_test/{c}/{k}.png", "seg_pred/seg_pred/{c}{k}.png"
        ),
        result="the split is kept, if the class folders largely agree; images to predict are left out",
        rows=BOTH,
        findings=(
            ("layout", "info", "'seg_test' (test), 'seg_train' (train)"),
            ("left_out", "info", "Left out: 6 images in 'seg_pred'"),
        ),
    ),
    Case(
        "`training_set/training_set/CLASS`, `test_set/test_set/CLASS`",
        many("training_set/training_set/{c}/{k}.png", "test_set/test_set/{c}/{k}.png"),
        result="the split is kept",
        rows=BOTH,
        findings=(("layout", "info", "'training_set' (train)"),),
    ),
    Case(
        "`train/images/CLASS`, `val/images/CLASS`",
        many("train/images/{c}/{k}.png", "val/images/{c}/{k}.png"),
        result="the split is kept",
        rows=each("train", "validation"),
        findings=(("layout", "info", "'train' (train)"),),
    ),
    Case(
        "`train/CLASS`, `test/*.png`",
        many("train/{c}/{k}.png", "test/{c}{k}.png"),
        result="images in no class folder of a split are left out",
        rows=each("train"),
        findings=(
            ("left_out", "warning", "Left out: 6 images in 'test', each because it is in no class folder"),
        ),
    ),
    Case(
        "`train/CLASS`, `test/CLASS`, `unlabeled/*.png`",
        many("train/{c}/{k}.png", "test/{c}/{k}.png", "unlabeled/{c}{k}.png"),
        result="unlabelled images are left out",
        rows=BOTH,
        findings=(("left_out", "info", "Left out: 6 images in 'unlabeled'"),),
    ),
    Case(
        "`CLASS/train`, `CLASS/test`",
        many("{c}/train/{k}.png", "{c}/test/{k}.png"),
        result="the split is kept",
        rows=BOTH,
        findings=(("layout", "info", "from the folders in the classes, such as 'test'"),),
    ),
    Case(
        "`CLASS/train`, `CLASS/test`, and images beside them",
        many("{c}/train/{k}.png", "{c}/test/{k}.png", "{c}/{k}.png"),
        rows=each(None, count=6),
        findings=(("layout", "critical", "'ash/test', 'ash/train' are named like splits"),),
    ),
    Case(
        "the same with `--layout class-splits`",
        many("{c}/train/{k}.png", "{c}/test/{k}.png", "{c}/{k}.png"),
        settings={"layout": "class-splits"},
        result="images beside the folders are used for training, with a warning",
        rows=each("train", "test", None),
        findings=(
            ("layout", "warning", "6 images lie in none of these: they are used as those for training are"),
        ),
    ),
    Case(
        "the same with `--layout classes`",
        many("{c}/train/{k}.png", "{c}/test/{k}.png", "{c}/{k}.png"),
        settings={"layout": "classes"},
        result="inner folders belong to their class",
        rows=each(None, count=6),
    ),
    Case(
        "`train`, `test` and a third folder",
        many("train/{c}/{k}.png", "test/{c}/{k}.png", "more/{c}/{k}.png"),
        rows={(None, name): 6 for name in ("train", "test", "more")},
        findings=(
            ("layout", "critical", "'more' beside folders that are named like splits ('test', 'train')"),
        ),
    ),
    Case(
        "the same with `--layout splits`",
        many("train/{c}/{k}.png", "test/{c}/{k}.png", "more/{c}/{k}.png"),
        settings={"layout": "splits"},
        result="the third folder is left out",
        rows=BOTH,
        findings=(("left_out", "warning", "Left out: 6 images in 'more'"),),
    ),
    Case(
        "`CLASS/*.png` with `--layout splits`",
        many("{c}/{k}.png"),
        settings={"layout": "splits"},
        refused="with images is named like a split, such as train or test",
    ),
    Case(
        "`color/CLASS`, `grey/CLASS` with `--layout classes`",
        many("color/{c}/{k}.png", "grey/{c}/{k}.png"),
        settings={"layout": "classes"},
        result="the outer folders are the classes",
        rows={(None, "color"): 6, (None, "grey"): 6},
    ),
    Case(
        "`trainers/*.png`, `valve/*.png`, `freight_train/*.png`",
        many("{c}/{k}.png", classes="trainers valve freight_train"),
        result="classes: a name alone decides nothing, and a folder that holds images is a class",
        rows=each(None, classes="trainers valve freight_train"),
    ),
    Case(
        "`bus`, `car` and `train`, all with images",
        many("{c}/{k}.png", classes="bus car train"),
        result="three classes",
        rows=each(None, classes="bus car train"),
        findings=(("layout", "info", "The class 'train' is named like a split"),),
    ),
    Case(
        "`seg_train` and `old_test` with other class folders each",
        (*many("seg_train/{c}/{k}.png"), *many("old_test/{c}/{k}.png", classes="yew fir")),
        rows={(None, "seg_train"): 6, (None, "old_test"): 4},
        findings=(("layout", "critical", "do not hold the same class folders"),),
    ),
    Case(
        "`test/*.png`, `val/*.png`",
        many("test/{c}{k}.png", "val/{c}{k}.png"),
        rows={(None, "test"): 6, (None, "val"): 6},
        findings=(("layout", "critical", "All folders are named like splits, 'test', 'val'"),),
    ),
    Case(
        "`color/CLASS`, `grey/CLASS`",
        many("color/{c}/{k}.png", "grey/{c}/{k}.png"),
        rows={(None, "color"): 6, (None, "grey"): 6},
        findings=(("layout", "critical", "scan.classes_at = 1 or 2"),),
    ),
    Case(
        "the same with `scan.classes_at = 2`",
        many("color/{c}/{k}.png", "grey/{c}/{k}.png"),
        settings={"classes_at": 2},
        result="the inner folders are the classes",
        rows=each(None, count=4),
        findings=(("layout", "info", "at level 2"),),
    ),
    Case(
        "`CLASS/a/*.png`, `OTHER/b/c/*.png`",
        ("ash/a/0.png", "ash/1.png", "oak/b/c/0.png"),
        result="the outer folders are the classes",
        rows={(None, "ash"): 2, (None, "oak"): 1},
        findings=(("layout", "info", "folders at level 1; what lies in 2 folders in them, such as 'ash/a'"),),
    ),
    Case(
        "an empty class folder",
        many("{c}/{k}.png"),
        {"yew/": ""},
        result="no class",
        rows=each(None),
        findings=(("empty_class", "warning", "'yew' beside those of classes holds no image"),),
    ),
    Case(
        "`train/*.png`, `test/*.png`, no list",
        (*TRAIN_FLAT, *TEST_FLAT),
        refused="holds 12 images in 'test' and 'train', which are named like splits, but no class folders",
    ),
    Case(
        "`train/*.png`, `test1/*.png`, no list",
        (*many("train/{c}.{k}.png"), *many("test1/{k}.png")),
        refused="which are named like splits, but no class folders",
    ),
    Case("`*.png`", many("{c}{k}.png"), refused="but no class folders"),
    Case(
        "names in any case and system folders: `.git`, `@eaDir`, `$RECYCLE.BIN`",
        (
            *many("{c}/{k}.png"),
            "@eaDir/ash/x.png",
            "$RECYCLE.BIN/y.png",
            "ash/@eaDir/z.png",
            ".git/x.png",
            "lost+found/x.png",
        ),
        result="skipped and counted",
        rows=each(None),
        findings=(("left_out", "info", "5 files and folders are left out: hidden or made by a system"),),
    ),
    Case(
        "files without a usual suffix: `1.jpg_large`, `2.png?w=640`; videos and texts",
        (*many("{c}/{k}.png"), "ash/1.jpg_large", "ash/2.png?w=640", "ash/3.pjpeg", "ash/4"),
        {"ash/clip.mp4": "0000ftypisom", "elm/notes.txt": "text"},
        result="judged by their first bytes; the others are counted",
        rows=each(None) | {(None, "ash"): 6},
        findings=(
            ("left_out", "info", "2 files are left out: no images (1 .mp4, 1 .txt), such as 'ash/clip.mp4'"),
        ),
    ),
)

LISTS = (
    Case(
        "a list `path,label,split`",
        FLAT,
        {"l.csv": listed(FLAT)},
        open="l.csv",
        result="read",
        rows=each(None),
    ),
    Case(
        "`images/` and `labels.csv`",
        FLAT,
        {"labels.csv": listed(FLAT, "filename,class", "{name},{label}")},
        result="read: files are found by name",
        rows=each(None),
        findings=(
            ("list_columns", "info", "in 'filename' and the class in 'class'"),
            ("list_paths", "info", "'images/ash0.png'"),
        ),
    ),
    Case(
        "Kaggle: `train/*.png`, `test/*.png`, `train.csv` with ids, `sample_submission.csv`",
        (*TRAIN_FLAT, *TEST_FLAT),
        {
            "train.csv": listed(TRAIN_FLAT, "id,label", "{stem},{label}"),
            "test.csv": listed(TEST_FLAT, "id", "{stem}"),
            "sample_submission.csv": listed(TEST_FLAT, "id,label", "{stem},ash"),
        },
        result="`train.csv` is read; images that it does not name are left out",
        rows=each(None),
        findings=(("left_out", "warning", "Left out: 6 images that 'train.csv' does not name"),),
    ),
    Case(
        "`metadata.csv` beside `train/*.png` and `test/*.png`, without a column `split`",
        (*TRAIN_FLAT, *many("test/{c}{k}.png")),
        {"metadata.csv": listed((*TRAIN_FLAT, *many("test/{c}{k}.png")), "file_name,label")},
        result="read, and the folders give the split",
        rows=BOTH,
    ),
    Case(
        "the same, if `metadata.csv` itself is given",
        (*TRAIN_FLAT, *many("test/{c}{k}.png")),
        {"metadata.csv": listed((*TRAIN_FLAT, *many("test/{c}{k}.png")), "file_name,label")},
        open="metadata.csv",
        result="split anew, with a warning",
        rows=each(None, count=4),
        findings=(("list_split", "warning", "'test', 'train', but the list has no column 'split'"),),
    ),
    Case(
        "`train.csv` and `val.csv` with labels",
        (*TRAIN_FLAT, *many("val/{c}{k}.png")),
        {"train.csv": listed(TRAIN_FLAT), "val.csv": listed(many("val/{c}{k}.png"))},
        result="read, each as its split",
        rows=each("train", "validation"),
    ),
    Case(
        "class folders, and a list with other labels for most images",
        many("a/{c}{k}.png", "b/{c}{k}.png"),
        {"labels.csv": listed(many("a/{c}{k}.png", "b/{c}{k}.png"))},
        rows={(None, "a"): 6, (None, "b"): 6},
        findings=(("layout", "critical", "'labels.csv' has other labels than the folders for 12 images"),),
    ),
    Case(
        "class folders, and an export or a broken list",
        many("{c}/{k}.png"),
        {
            "annotations.xml": "<annotations/>",
            "l.csv": "path,label\ngone.png,x\n",
            "x.json": "{",
            "y.csv": "",
        },
        result="the folders are read",
        rows=each(None),
        findings=(("left_out", "info", "4 files are left out: no images (2 .csv, 1 .xml, 1 .json)"),),
    ),
    Case(
        "`data/images/*.png` and `data/labels.csv`",
        many("data/images/{c}{k}.png"),
        {"data/labels.csv": listed(many("images/{c}{k}.png"))},
        result="lone outer folders are stepped into",
        rows=each(None),
    ),
    Case(
        "two lists with other names",
        FLAT,
        {"a.csv": listed(FLAT), "b.csv": listed(FLAT)},
        refused="holds several lists, 'a.csv', 'b.csv': give the one that is meant",
    ),
    Case(
        "Hugging Face: `train/metadata.jsonl`, `test/metadata.csv`",
        (*TRAIN_FLAT, *TEST_FLAT),
        {
            "train/metadata.jsonl": "\n".join(
                json.dumps({"file_name": Path(p).name, "label": Path(p).stem[:3]}) for p in TRAIN_FLAT
            ),
            "test/metadata.csv": listed(TEST_FLAT, "file_name,label", "{name},{label}").replace(",x", ","),
        },
        result="read, each as its split",
        rows=BOTH,
    ),
    Case(
        "Roboflow: `train/_classes.csv`, `test/_classes.csv` with a column of 0 and 1 for each class",
        (*TRAIN_FLAT, *many("test/{c}{k}.png")),
        {"train/_classes.csv": one_hot(TRAIN_FLAT), "test/_classes.csv": one_hot(many("test/{c}{k}.png"))},
        result="read, each as its split",
        rows=BOTH,
        findings=(("list_columns", "info", "one column for each class"),),
    ),
    Case(
        "the same with two classes for an image",
        FLAT,
        {"l.csv": one_hot(FLAT).replace("ash0.png,1,0", "ash0.png,1,1")},
        open="l.csv",
        refused="is a multi-label list: it has 1 image with several classes, such as 'ash0.png' (ash, elm)",
    ),
    Case(
        "COCO: `train/_annotations.coco.json`",
        (*TRAIN_FLAT, *many("valid/{c}{k}.png")),
        {
            "train/_annotations.coco.json": coco(TRAIN_FLAT),
            "valid/_annotations.coco.json": coco(many("valid/{c}{k}.png")),
        },
        result="read; images without an annotation are left out",
        rows=each("train", "validation"),
    ),
    Case(
        "COCO with two categories for an image",
        FLAT,
        {"c.json": coco(FLAT, {0: 1})},
        open="c.json",
        refused="'ash0.png' (ash, elm)",
    ),
    Case(
        "a `.json` of paths and labels",
        FLAT,
        {"l.json": json.dumps({path: Path(path).stem[:3] for path in FLAT})},
        open="l.json",
        result="read",
        rows=each(None),
    ),
    Case(
        "semicolons",
        FLAT,
        {"l.csv": listed(FLAT, "path;label", "{path};{label}")},
        open="l.csv",
        result="read",
        rows=each(None),
    ),
    Case(
        "blanks after commas, labels `000`",
        FLAT,
        {"l.csv": listed(FLAT, "path, label", "{path}, 00{label}")},
        open="l.csv",
        result="labels are texts as written, without blanks around them",
        rows=each(None, classes="00ash 00elm 00oak"),
    ),
    Case(
        "two columns `label` and `Label`",
        FLAT,
        {"l.csv": listed(FLAT, "path,label,Label", "{path},{label},{label}")},
        open="l.csv",
        refused="has 2 columns that may be meant, 'label' and 'Label'",
    ),
    Case(
        "columns `class` and `target`",
        FLAT,
        {"l.csv": listed(FLAT, "file,class,target", "{path},{label},1")},
        open="l.csv",
        refused="has 2 columns that may be meant, 'class' and 'target'",
    ),
    Case(
        'the same with `scan.label_column = "class"`',
        FLAT,
        {"l.csv": listed(FLAT, "file,class,target", "{path},{label},1")},
        open="l.csv",
        settings={"label_column": "class"},
        result="read; the other becomes a further column",
        rows=each(None),
        findings=(("list_columns", "info", "'target' became further columns"),),
    ),
    Case(
        "other names of columns",
        FLAT,
        {"l.csv": listed(FLAT, "photo,tree", "{path},{label}")},
        open="l.csv",
        refused="--set scan.path_column=NAME",
    ),
    Case(
        "Label Studio's JSON",
        FLAT,
        {"l.json": json.dumps([{"data": {"image": "/data/upload/1/ash0.png"}, "annotations": []}])},
        refused="is an export of Label Studio: write a .csv of path,label from it",
    ),
    Case(
        "CVAT's XML",
        FLAT,
        {"annotations.xml": "<?xml version='1.0'?><annotations><image name='ash0.png'/></annotations>"},
        refused="is an export of CVAT as XML: export it in the format 'ImageNet'",
    ),
)
CASES = FOLDERS + LISTS
PAGE = Path(__file__).parents[2] / "docs/data.md"


def page(text: str) -> str:
    """docs/data.md with the tables of today."""
    for name, cases in (("folders", FOLDERS), ("lists", LISTS)):
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, _, rest = text.partition(begin)
        text = before + begin + "\n".join(["", *_table(cases), "", end]) + rest.partition(end)[2]
    return text


def _table(cases: Iterable[Case]) -> list[str]:
    rows = [f"| {case.shape} | {_outcome(case)} |".replace("\\", "") for case in cases]
    return ["| what there is | what happens |", "|---|---|", *rows]


def _outcome(case: Case) -> str:
    if case.refused:
        return f"refused: “… {case.refused} …”"
    critical = [message for _, severity, message in case.findings if severity == "critical"]
    return f"a critical finding: “… {critical[0]} …”" if critical else case.result


if __name__ == "__main__":
    old = PAGE.read_text(encoding="utf-8")
    if "--check" not in sys.argv:
        PAGE.write_text(page(old), encoding="utf-8")
    elif page(old) != old:
        sys.exit(f"{PAGE} is out of date. Run scripts/reference.")
