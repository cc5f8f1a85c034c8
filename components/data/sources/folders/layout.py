"""Which folders are splits and which are classes, decided from the tree of their names and counts alone.

`decide` takes the first of _RULES that fits. What remains in doubt is a critical finding, which names the
folders and the setting that decides; see doubts.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from pergola.components.artifacts.data import TRAIN, Finding
from pergola.components.data.sources.folders.tree import Folder
from pergola.components.data.sources.settings import AUTO, CLASS_SPLITS, CLASSES, SPLITS
from pergola.components.data.sources.split_names import UNLABELLED, exact_split, split_in

TO_PREDICT = "its folder is named as images without labels"
NO_CLASSES = "it is in no class folder"
NO_SPLIT = "its folder is named like no split"
_AGREE = 0.5  # of the class names of two splits: in both, as a share of those in either


@dataclass(frozen=True)
class Place:
    """Where a file belongs. label: empty outside of class folders.  left_out: why it is not used, if so."""

    label: str
    split: str | None = None
    left_out: str | None = None


@dataclass(frozen=True)
class Layout:
    """How the path of a file, below the lone outer folders, gives its split and its class."""

    wrapper: tuple[str, ...] = ()  # lone outer folders
    splits: Mapping[str, str] = field(default_factory=dict)  # name of a folder -> its split
    left_out: Mapping[str, str] = field(default_factory=dict)  # name of a folder -> why it is not used
    inner: Mapping[str, int] = field(default_factory=dict)  # folders between that of a split and its classes
    in_classes: bool = False  # CLASS/train instead of train/CLASS
    classes_at: int = 1  # the level of the class folders, counted inside of a split's folder

    @property
    def has_splits(self) -> bool:
        """Whether the folders give the split."""
        return bool(self.splits)

    def place(self, path: str) -> Place:
        """Where the file with this path belongs."""
        folders = path.split("/")[:-1]
        if self.in_classes:
            name = folders[self.classes_at] if len(folders) > self.classes_at else ""
        else:
            name = folders[0] if folders and self.has_splits else ""
            if name:
                folders = folders[1 + self.inner.get(name, 0) :]
        label = folders[self.classes_at - 1] if len(folders) >= self.classes_at else ""
        return Place(label, self.splits.get(name), self.left_out.get(name))

    def class_parents(self, root: Folder) -> list[Folder]:
        """The folders in which the folders of the first level lie: the root, or those of the splits."""
        if self.in_classes or not self.has_splits:
            return [root]
        groups = [group for group in root.folders if group.name in self.splits]
        return [_descended(group, self.inner.get(group.name, 0)) for group in groups]


def unwrapped(tree: Folder, asked: str = AUTO) -> tuple[tuple[str, ...], Folder]:
    """The names of a data set's lone outer folders, and the folder in them."""
    wrapper: list[str] = []
    while not tree.num_images and len(tree.with_images) == 1:
        inner = tree.with_images[0]
        is_split = exact_split(inner.name) == TRAIN and asked in (AUTO, SPLITS)
        if is_split or not inner.with_images:
            break
        wrapper.append(inner.name)
        tree = inner
    return tuple(wrapper), tree


def decide(tree: Folder, asked: str = AUTO, classes_at: int = 0) -> tuple[Layout, tuple[Finding, ...]] | None:
    """The layout of a data set, and what is to be said about it; None where no image has a class folder.

    asked: one of settings.LAYOUTS.  classes_at: the level of the class folders; 0: the first one.
    """
    from pergola.components.data.sources.folders.doubts import findings_of

    wrapper, root = unwrapped(tree, asked)
    layout = next((found for rule in _RULES[asked] if (found := rule(root)) is not None), None)
    if layout is None:
        return None
    layout = replace(layout, wrapper=wrapper, classes_at=classes_at or 1)
    return layout, findings_of(layout, root, asked, classes_at)


Rule = Callable[[Folder], Layout | None]


def _exact_splits(root: Folder) -> Layout | None:
    """train/CLASS beside other folders whose whole names are words for a split."""
    named = {group.name: exact_split(group.name) for group in root.with_images}
    layout = _of_splits(root, named)
    return layout if None not in named.values() and TRAIN in layout.splits.values() else None


def _spelled_splits(root: Folder) -> Layout | None:
    """seg_train/CLASS, test_set/CLASS: all folders match, and the folders in them largely agree."""
    named = {group.name: split_in(group.name) for group in root.with_images}
    layout = _of_splits(root, {name: split for name, (split, _) in named.items()})
    found = {split for split, _ in named.values()}
    if None in found or TRAIN not in layout.splits.values() or len(found) < 2:
        return None
    parents = layout.class_parents(root)
    names = [{child.name for child in parent.with_images} for parent in parents]
    agree = len(parents) > 1 and all(agreement(names[0], others) >= _AGREE for others in names[1:])
    alike = len({rest for _, rest in named.values()}) == 1
    loose = any(parent.num_images for parent in parents)
    return layout if not loose and (agree or (alike and len(parents) == 1)) else None


def _splits_in_classes(root: Folder) -> Layout | None:
    """CLASS/train, CLASS/test: the folders of all classes are named like splits, and hold all images."""
    groups = root.with_images
    layout = _of_class_splits(root)
    found = {*layout.splits.values(), *layout.left_out.values()}
    unnamed = [child for group in groups for child in group.with_images if not split_in(child.name)[0]]
    loose = [group for group in groups if group.num_images]
    return layout if not unnamed and not loose and TRAIN in found and len(found) > 1 else None


def _classes(root: Folder) -> Layout | None:
    """CLASS, whatever the names; but folders of a split that hold images directly are no classes."""
    return None if is_flat_split(root) else _any_classes(root)


def _any_classes(root: Folder) -> Layout | None:
    return Layout() if root.with_images else None


def _asked_splits(root: Folder) -> Layout | None:
    named = {group.name: split_in(group.name)[0] for group in root.with_images}
    layout = _of_splits(root, named)
    return layout if layout.splits else None


def _asked_class_splits(root: Folder) -> Layout | None:
    layout = _of_class_splits(root)
    return layout if layout.splits else None


_RULES: Mapping[str, tuple[Rule, ...]] = {
    AUTO: (_exact_splits, _spelled_splits, _splits_in_classes, _classes),
    CLASSES: (_any_classes,),
    SPLITS: (_asked_splits,),
    CLASS_SPLITS: (_asked_class_splits,),
}


def is_flat_split(root: Folder) -> bool:
    """Whether all folders hold images and no folders, and are named like splits beyond doubt.

    That is: alike, such as train_images and test_images, or one by a whole word: train and test1.
    """
    names = [group.name for group in root.with_images]
    splits = {split_in(name)[0] for name in names}
    sure = len({split_in(name)[1] for name in names}) == 1 or any(map(exact_split, names))
    has_folders = any(group.with_images for group in root.with_images)
    return TRAIN in splits and None not in splits and sure and not has_folders


def agreement(one: set[str], other: set[str]) -> float:
    """Names in both as a share of those in either, 0 to 1."""
    return len(one & other) / max(1, len(one | other))


def _of_splits(root: Folder, named: Mapping[str, str | None]) -> Layout:
    """A layout with these folders as splits. Those without class folders are left out."""
    splits, left_out, inner = {}, {}, {}
    same = _lone_names(root)
    for group in root.with_images:
        split = named[group.name]
        depth = _depth(group, split, same)
        inside = _descended(group, depth)
        if split is None:
            left_out[group.name] = NO_SPLIT
        elif split == UNLABELLED:
            left_out[group.name] = TO_PREDICT
        elif not inside.with_images:
            left_out[group.name] = NO_CLASSES
        else:
            splits[group.name] = split
            inner[group.name] = depth
    return Layout(splits=splits, left_out=left_out, inner={name: n for name, n in inner.items() if n})


def _of_class_splits(root: Folder) -> Layout:
    named = {child.name: split_in(child.name)[0] for group in root.with_images for child in group.with_images}
    return Layout(
        splits={name: split for name, split in named.items() if split and split != UNLABELLED},
        left_out={name: TO_PREDICT for name, split in named.items() if split == UNLABELLED},
        in_classes=True,
    )


def _lone_names(root: Folder) -> set[str]:
    """The name of the lone folder in each folder, if it is one and the same, as in train/images/CLASS."""
    names = {tuple(child.name for child in group.with_images) for group in root.with_images}
    lone = len(names) == 1 and len(root.with_images) > 1 and len(next(iter(names))) == 1
    deeper = all(child.with_images for group in root.with_images for child in group.with_images)
    return set(next(iter(names))) if lone and deeper else set()


def _depth(group: Folder, split: str | None, same: set[str]) -> int:
    """How many lone folders that repeat the split's name, or are the same in all, lie before the classes."""
    depth, here = 0, group
    while not here.num_images and len(here.with_images) == 1:
        here = here.with_images[0]
        name = here.name.casefold()
        repeats = name == group.name.casefold() or (split is not None and exact_split(name) == split)
        if not repeats and not (depth == 0 and here.name in same):
            break
        depth += 1
    return depth


def _descended(folder: Folder, depth: int) -> Folder:
    for _ in range(depth):
        folder = folder.with_images[0]
    return folder
