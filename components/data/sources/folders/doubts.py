"""What is to be said about a layout: what is in doubt, left out, or empty."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from pergola.components.artifacts.data import CRITICAL, INFO, TRAIN, WARNING, Finding
from pergola.components.data.sources.folders.layout import NO_CLASSES, TO_PREDICT, Layout, agreement
from pergola.components.data.sources.folders.tree import Folder, clean
from pergola.components.data.sources.settings import AUTO, CLASSES
from pergola.components.data.sources.split_names import exact_split, split_in
from pergola.components.formatting import count as counted

_SAME_NAMES = 0.75  # agreement from which the folders in several classes count as the same
_SHOWN = 3
_MAX_PATHS = 100  # of a finding
_SAY_LAYOUT = (
    "Say which: --layout classes, --layout splits (train/CLASS) or --layout class-splits (CLASS/train); the "
    "setting is scan.layout."
)
_SAY_LEVEL = "Say which level holds the classes: scan.classes_at = 1 or 2."


def findings_of(layout: Layout, root: Folder, asked: str, classes_at: int) -> tuple[Finding, ...]:
    """The findings, critical ones only where neither setting has decided.

    root: the folder in the lone outer ones.  asked, classes_at: as `layout.decide` has them.
    """
    classes = _merged(child for parent in layout.class_parents(root) for child in parent.with_images)
    doubts = [message for check in _DOUBTS if (message := check(layout, classes))] if asked == AUTO else []
    if not classes_at and asked != CLASSES and not doubts and (message := _same_names(layout, classes)):
        doubts.append(message)
    found = [Finding("layout", CRITICAL, len(classes), (), message) for message in doubts]
    if not found:
        found += _reported(layout, classes, root, classes_at)
    found += [*_left_out(layout, root), *_empty(layout, root)]
    return tuple(replace(f, paths=tuple(map(clean, f.paths)), message=clean(f.message)) for f in found)


def _merged(folders: Iterable[Folder]) -> list[Folder]:
    """One folder of each name: the first, which is that of training where it comes first."""
    named: dict[str, Folder] = {}
    for folder in folders:
        named.setdefault(folder.name, folder)
    return list(named.values())


def _beside_splits(layout: Layout, classes: Sequence[Folder]) -> str:
    """train, test and something else; or a class `train` that is made otherwise than the others."""
    if layout.has_splits:
        return ""
    named = [c for c in classes if exact_split(c.name)]
    others = [c for c in classes if not exact_split(c.name)]
    splits = {exact_split(c.name) for c in named}
    if named and not others:
        return f"All folders are named like splits, {_names(named)}, and were read as classes. {_SAY_LAYOUT}"
    if others and TRAIN in splits and len(splits) > 1:
        return (
            f"{_names(others)} beside folders that are named like splits ({_names(named)}): all of them "
            f"were read as classes. Move {_names(others)} away, or into one of them. {_SAY_LAYOUT}"
        )
    odd = [c for c in named if c.with_images and others and not all(o.with_images for o in others)]
    odd += [c for c in named if {f.name for f in c.with_images} & {o.name for o in others}]
    if odd:
        return (
            f"{_names(odd)} was read as a class, but is named like a split and holds folders. {_SAY_LAYOUT}"
        )
    return ""


def _spelled_like_splits(layout: Layout, classes: Sequence[Folder]) -> str:
    """All folders are named like splits and hold folders, but not of the same names."""
    found = {split_in(c.name)[0] for c in classes}
    if layout.has_splits or None in found or TRAIN not in found or not any(c.with_images for c in classes):
        return ""
    return (
        f"The folders {_names(classes)} are named like splits, but do not hold the same class folders: they "
        f"were read as classes. {_SAY_LAYOUT}"
    )


def _splits_inside(layout: Layout, classes: Sequence[Folder]) -> str:
    """Some classes hold folders that are named like splits."""
    if layout.in_classes:
        return ""
    for folder in classes:
        named = [child for child in folder.with_images if exact_split(child.name)]
        splits = {exact_split(child.name) for child in named}
        if TRAIN in splits and len(splits) > 1:
            inside = _names(named, folder.name + "/")
            return (
                f"{inside} are named like splits, but other folders are not, or hold images beside them: "
                f"all were read as images of their class. {_SAY_LAYOUT}"
            )
    return ""


def _same_names(layout: Layout, classes: Sequence[Folder]) -> str:
    """Several classes without images of their own hold folders of the same names."""
    outer = [c for c in classes if not c.num_images and len(c.with_images) > 1]
    if layout.in_classes or len(outer) < 2 or len(outer) < len(classes):
        return ""
    names = [{child.name for child in folder.with_images} for folder in outer]
    if min(agreement(names[0], others) for others in names[1:]) < _SAME_NAMES:
        return ""
    return (
        f"The folders {_names(outer)} hold folders of the same names, {_names(outer[0].with_images)}: the "
        f"outer ones were read as the classes, but may be splits or kinds of images. {_SAY_LEVEL}"
    )


_DOUBTS = (_beside_splits, _spelled_like_splits, _splits_inside)


def _reported(layout: Layout, classes: Sequence[Folder], root: Folder, classes_at: int) -> Iterator[Finding]:
    """How the folders were read, where that is not plain."""
    if layout.in_classes:
        yield _split_in_classes(layout, classes)
    elif any(exact_split(name) is None for name in layout.splits) or layout.inner:
        named = ", ".join(f"'{name}' ({split})" for name, split in sorted(layout.splits.items()))
        message = f"The split is taken from the folders {named}. If they are classes: --layout classes."
        yield Finding("layout", INFO, len(layout.splits), (), message)
    like_splits = [c for c in classes if exact_split(c.name)]
    if like_splits and not layout.has_splits:
        message = f"The class {_names(like_splits)} is named like a split, and holds images as classes do."
        yield Finding("layout", INFO, len(like_splits), (), message)
    deeper = [f"'{c.name}/{child.name}'" for c in classes for child in c.with_images]
    if classes_at:
        message = f"The classes are the folders at level {classes_at}, as scan.classes_at says."
        yield Finding("layout", INFO, classes_at, (), message)
    elif deeper and not layout.in_classes:
        message = (
            f"The classes are the folders at level 1; what lies in {counted(len(deeper), 'folder')} in "
            f"them, such as {deeper[0]}, belongs to their class. If those are the classes, set "
            "scan.classes_at = 2."
        )
        yield Finding("layout", INFO, len(deeper), (), message)


def _split_in_classes(layout: Layout, classes: Sequence[Folder]) -> Finding:
    """That the split was found in the classes, and what lies in none of its folders."""
    inside = [child for c in classes for child in c.with_images]
    given = [child for child in inside if child.name in layout.splits]
    accounted = sum(f.total for f in inside if f.name in layout.splits or f.name in layout.left_out)
    others = sum(c.total for c in classes) - accounted
    message = f"The split is taken from the folders in the classes, such as '{given[0].name}'."
    if others:
        message += f" {others:,} images lie in none of these: they are used as those for training are."
    return Finding("layout", WARNING if others else INFO, len(layout.splits), (), message)


def _left_out(layout: Layout, root: Folder) -> Iterator[Finding]:
    """Folders of images that are not used, each with its count and reason."""
    inside = "/".join([*layout.wrapper, ""])
    for name, reason in sorted(layout.left_out.items()):
        outer = [folder for folder in root.folders if name in {child.name for child in folder.with_images}]
        parents = [(f"{folder.name}/", folder) for folder in outer] if layout.in_classes else [("", root)]
        count = sum(child.total for _, parent in parents for child in parent.folders if child.name == name)
        paths = tuple(f"{inside}{prefix}{name}/" for prefix, _ in parents[:_MAX_PATHS])
        hint = "Give the images class folders to use them." if reason == NO_CLASSES else ""
        message = f"Left out: {counted(count, 'image')} in '{name}', each because {reason}. {hint}".rstrip()
        severity = INFO if reason == TO_PREDICT else WARNING
        yield Finding("left_out", severity, count, paths, message)


def _empty(layout: Layout, root: Folder) -> Iterator[Finding]:
    """Class folders without an image in any split, and split folders without one."""
    parents = layout.class_parents(root)
    used = {folder.name for parent in parents for folder in parent.with_images}
    empty = sorted({folder.name for parent in parents for folder in parent.folders} - used)
    if empty:
        shown = ", ".join(f"'{name}'" for name in empty[:_SHOWN])
        message = (
            f"{len(empty):,} folders beside those of classes hold no image, such as {shown}: no classes."
        )
        if len(empty) == 1:
            message = f"The folder '{empty[0]}' beside those of classes holds no image: it is no class."
        yield Finding(
            "empty_class", WARNING, len(empty), tuple(name + "/" for name in empty[:_MAX_PATHS]), message
        )
    if layout.has_splits and not layout.in_classes:
        for folder in root.folders:
            if not folder.total and exact_split(folder.name):
                message = f"The folder '{folder.name}' holds no images: this split is taken from the others."
                yield Finding("empty_split", WARNING, 1, (folder.name + "/",), message)


def _names(folders: Sequence[Folder], prefix: str = "") -> str:
    shown = ", ".join(f"'{prefix}{folder.name}'" for folder in folders[:_SHOWN])
    return shown + (f" and {len(folders) - _SHOWN:,} more" if len(folders) > _SHOWN else "")
