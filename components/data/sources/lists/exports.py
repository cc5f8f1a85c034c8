"""Files that annotation tools write: COCO is read; the others are refused with the way to read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pergola.components.artifacts.data import WARNING, Finding
from pergola.components.data.sources.lists.columns import refuse_several_labels
from pergola.components.errors import InputError
from pergola.components.formatting import count as counted

_XML_HEAD_BYTES = 4096


def is_coco(data: Any) -> bool:
    """Whether parsed JSON is in the form of COCO, https://cocodataset.org/#format-data."""
    return isinstance(data, dict) and {"images", "annotations", "categories"} <= data.keys()


def coco(location: Path, data: Any) -> tuple[list[str], list[str], tuple[Finding, ...]]:
    """Paths and labels of the images that have an annotation, and how many have none.

    Raises InputError for an image with annotations of several categories.
    """
    try:
        names = {category["id"]: str(category["name"]) for category in data["categories"]}
        found: dict[Any, set[str]] = {}
        for annotation in data["annotations"]:
            found.setdefault(annotation["image_id"], set()).add(names[annotation["category_id"]])
        files = {image["id"]: str(image["file_name"]) for image in data["images"]}
    except (KeyError, TypeError) as error:
        raise InputError(f"'{location}' is not complete as COCO: {error} is missing.") from None
    several = [image for image, labels in found.items() if len(labels) > 1 and image in files]
    if several:
        refuse_several_labels(location, len(several), files[several[0]], sorted(found[several[0]]))
    rows = [(path, next(iter(found[image]))) for image, path in files.items() if image in found]
    without = [path for image, path in files.items() if image not in found]
    findings: tuple[Finding, ...] = ()
    if without:
        message = (
            f"Left out of '{location.name}': {counted(len(without), 'image')} without an annotation, such as "
            f"'{without[0]}'."
        )
        findings = (Finding("left_out", WARNING, len(without), tuple(without[:100]), message),)
    return [path for path, _ in rows], [label for _, label in rows], findings


def refuse(location: Path, data: Any) -> None:
    """Raises InputError for JSON of Label Studio."""
    first = data[0] if isinstance(data, list) and data else None
    if isinstance(first, dict) and "data" in first and {"annotations", "completions"} & first.keys():
        raise InputError(
            f"'{location}' is an export of Label Studio: write a .csv of path,label from it, or from its "
            "export as CSV (columns image and choice), with paths of the image files on this machine."
        )


def refuse_xml(location: Path) -> None:
    """Raises InputError for an export of CVAT."""
    with open(location, "rb") as file:
        if b"<annotations" not in file.read(_XML_HEAD_BYTES):
            return
    raise InputError(
        f"'{location}' is an export of CVAT as XML: export it in the format 'ImageNet', which has a folder "
        "for each class, and give that folder."
    )
