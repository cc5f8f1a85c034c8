"""Kinds of image files, by their suffixes and by their first bytes."""

from __future__ import annotations

import os

READABLE_SUFFIXES = frozenset(
    (
        ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".gif",
        ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2",
    )
)  # fmt: skip
# Images of formats that are not supported: each becomes a row with that reason.
OTHER_SUFFIXES = frozenset(
    (
        ".heic", ".heif", ".jxl", ".psd", ".svg", ".cr2", ".cr3", ".nef", ".arw", ".dng", ".raw", ".ico",
        ".tga", ".dcm", ".exr",
    )
)  # fmt: skip
_READABLE = {"JPEG", "PNG", "GIF", "WebP", "BMP", "TIFF", "AVIF", "JPEG 2000"}
_HEAD_BYTES = 144


def kind_of(path: str) -> str | None:
    """The kind of image that a file's first bytes are those of; None for anything else."""
    with open(path, "rb") as file:
        return _kind(file.read(_HEAD_BYTES))


def why_not(path: str) -> str | None:
    """Why an image file is of no kind that is read. None where it is, whatever its suffix says."""
    suffix = os.path.splitext(path)[1].lower()
    if suffix in READABLE_SUFFIXES:
        return None
    kind = kind_of(path)
    # Raw files of cameras begin like a TIFF, and hold a small preview.
    if kind in _READABLE and not (kind == "TIFF" and suffix in OTHER_SUFFIXES):
        return None
    name = suffix if suffix in OTHER_SUFFIXES else kind
    return f"{name} files are not read: convert it to JPEG or PNG"


def _kind(head: bytes) -> str | None:
    for kind, signature in _SIGNATURES:
        if head.startswith(signature):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[:2] == b"BM" and head[6:10] == bytes(4) and head[14:18] in _BMP_HEADERS:
        return "BMP"
    if head[4:8] == b"ftyp":
        return {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIC"}.get(
            head[8:12]
        )
    return "DICOM" if head[128:132] == b"DICM" else None


_SIGNATURES = (
    ("JPEG", b"\xff\xd8\xff"),
    ("PNG", b"\x89PNG\r\n\x1a\n"),
    ("GIF", b"GIF87a"),
    ("GIF", b"GIF89a"),
    ("TIFF", b"II*\0"),
    ("TIFF", b"MM\0*"),
    ("JPEG 2000", b"\0\0\0\x0cjP  "),
    ("JPEG XL", b"\0\0\0\x0cJXL "),
    ("Photoshop", b"8BPS\0"),
)
_BMP_HEADERS = tuple(size.to_bytes(4, "little") for size in (12, 40, 52, 56, 64, 108, 124))
