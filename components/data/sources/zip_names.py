"""Names in a .zip, whose encoding it need not state: UTF-8, a code page of DOS, or one of another country."""

from __future__ import annotations

import struct
import unicodedata
import zipfile
from pathlib import Path

from pergola.components.errors import InputError

_UTF8_FLAG = 0x800
_DOS = 0  # the system that some programs separate parts of a path by "\\" on
_UNICODE_PATH = 0x7075  # an extra field with the name in UTF-8, see APPNOTE.TXT 4.6.9


def name_of(archive: Path, member: zipfile.ZipInfo, encoding: str = "") -> str:
    """The name of a member, with "/" between parts.

    encoding: of names that do not state theirs; empty: UTF-8, else cp437.
    Raises InputError for a name that is in neither: cp437 has a character for every byte, but a name does
    not consist of frames, mathematical signs or accented letters alone.
    """
    name = _name(archive, member, encoding)
    return name.replace("\\", "/") if member.create_system == _DOS else name


def _name(archive: Path, member: zipfile.ZipInfo, encoding: str) -> str:
    if member.flag_bits & _UTF8_FLAG or member.filename.isascii():
        return member.filename
    raw = member.filename.encode("cp437")
    if stated := _stated(member.extra):
        return stated
    try:
        return raw.decode(encoding or "utf-8")
    except LookupError:
        raise InputError(f"scan.zip_encoding: there is no encoding '{encoding}'.") from None
    except UnicodeDecodeError:
        if not encoding and all(map(_is_usual, member.filename.split("/"))):
            return member.filename
    raise InputError(
        f"'{archive}' holds the name {raw!r} in an encoding that it does not state"
        + (f", and which is not {encoding}" if encoding else "")
        + ": name it, such as --set scan.zip_encoding=cp932 (Japanese), gbk (Chinese) or cp1251 (Cyrillic)."
    )


def _stated(extra: bytes) -> str:
    """The name in the extra field for it; empty without one."""
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        if kind == _UNICODE_PATH and size > 5:
            return extra[9 : 4 + size].decode("utf-8", "replace")
        extra = extra[4 + size :]
    return ""


def _is_usual(name: str) -> bool:
    """Whether a name is one in cp437: Latin letters, at most half of them with accents."""
    others = [character for character in name if not character.isascii()]
    num_letters = sum(map(str.isalpha, name))
    latin = all(unicodedata.name(character, "").startswith("LATIN ") for character in others)
    return latin and len(others) <= num_letters / 2
