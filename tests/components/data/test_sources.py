"""Every kind of source gives its images in order of path, and says clearly what it cannot use."""

from __future__ import annotations

import gzip
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pergola.components.data.manifest.scan import ScanSettings
from pergola.components.data.sources.archive_target import RESERVE_BYTES, Target
from pergola.components.data.sources.source import open_source, stamp
from pergola.components.errors import InputError
from pergola.serving.wire.images import prepare
from tests.support import images as image_files
from tests.support.images import jpeg, pixels, png, write_folder


@pytest.fixture
def opened(tmp_path):
    """Opens a location with a scratch folder beside it."""
    return lambda location, **limits: open_source(location, ScanSettings(**limits), tmp_path / "scratch")


def rows(source) -> list[tuple[str, str, str | None]]:
    found = list(source.entries())
    assert [e.path for e in found] == sorted(e.path for e in found)
    return [(e.path, e.label, e.given_split) for e in found]


def labels(source) -> list[str]:
    return sorted({entry.label for entry in source.entries()})


def put(root: Path, *names: str) -> Path:
    """Distinct small PNGs under these names."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(pixels(0, number, size=8)))
    return root


def test_folder_gives_a_class_a_folder_in_order_of_path(tmp_path, opened):
    root = put(tmp_path / "p", "b/1.png", "a/deep/er/2.png", "a-b/3.png", "a/1.png")
    source = opened(root)
    assert source.kind == "folder"
    assert rows(source) == [
        ("a-b/3.png", "a-b", None),
        ("a/1.png", "a", None),
        ("a/deep/er/2.png", "a", None),
        ("b/1.png", "b", None),
    ]
    assert source.read("b/1.png") == (root / "b/1.png").read_bytes()


@pytest.mark.parametrize("names", [("train", "test", "val"), ("Training", "TEST", "valid")])
def test_folder_respects_a_split_that_the_data_brings(tmp_path, opened, names):
    root = put(tmp_path / "p", *(f"{name}/{label}/1.png" for name in names for label in "ab"))
    assert {(e.given_split, e.label) for e in opened(root).entries()} == {
        (split, label) for split in ("train", "test", "validation") for label in "ab"
    }


def test_folder_steps_into_a_lone_folder(tmp_path, opened):
    assert labels(opened(put(tmp_path / "p", "photos/a/1.png", "photos/b/1.png"))) == ["a", "b"]
    assert labels(opened(put(tmp_path / "q", "only/1.png", "only/2.png"))) == ["only"]


def test_folder_takes_names_as_people_write_them(tmp_path, opened):
    root = put(tmp_path / "p", "große Blätter/Mit Leer zeichen.PNG", "叶/a'b\"c.JPeG", "叶/no_suffix")
    assert [path for path, _, _ in rows(opened(root))] == [
        "große Blätter/Mit Leer zeichen.PNG",
        "叶/a'b\"c.JPeG",
        "叶/no_suffix",
    ]


def test_folder_ignores_what_is_no_image(tmp_path, opened):
    root = put(tmp_path / "p", "a/1.png", "b/1.png", "b/._1.png", ".git/x.png", "__MACOSX/a/1.png")
    for name in ("readme.txt", "a/Thumbs.db", "a/.DS_Store", "a/LICENSE", "notes/all.csv"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("text")
    assert [path for path, _, _ in rows(opened(root))] == ["a/1.png", "b/1.png"]


def test_folder_says_why_a_file_cannot_be_read(tmp_path, opened):
    root = put(tmp_path / "p", "a/1.png", "b/1.png", "stray.png")
    (root / "a/gone.jpg").symlink_to(root / "nowhere")
    (root / "a/iphone.HEIC").write_bytes(b"heic")
    os.mkfifo(root / "b/pipe.jpg")
    (root / os.fsdecode(b"b/\xff.png")).write_bytes(b"x")
    reasons = {e.path: e.reason for e in opened(root).entries() if e.reason}
    assert reasons == {
        "a/gone.jpg": "it is a link that leads nowhere",
        "a/iphone.HEIC": ".heic files are not read: convert it to JPEG or PNG",
        "b/\\xff.png": "its name is not UTF-8",
        "b/pipe.jpg": "it is not a regular file",
        "stray.png": "it is not in a class folder",
    }


def test_folder_follows_links_but_not_in_circles(tmp_path, opened):
    elsewhere = put(tmp_path / "elsewhere", "1.png", "2.png")
    root = put(tmp_path / "p", "a/1.png")
    (root / "b").symlink_to(elsewhere)
    (root / "a/2.png").symlink_to(elsewhere / "2.png")
    (root / "a/circle").symlink_to(root)
    (elsewhere / "self").symlink_to("self")
    assert [path for path, _, _ in rows(opened(root))] == ["a/1.png", "a/2.png", "b/1.png", "b/2.png"]


def test_folder_does_not_read_outside_itself(tmp_path, opened):
    source = opened(put(tmp_path / "p", "a/1.png", "b/1.png"))
    for path in ("../secret", "a/../../secret", "/etc/passwd"):
        with pytest.raises(PermissionError, match="leads out"):
            source.read(path)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ((), "holds no images"),
        (("1.png", "2.png"), "no class folders"),
        (("Cat/1.png", "cat/1.png"), "'Cat' and 'cat'"),
        (("train/Cat/1.png", "test/cat/1.png"), "'Cat' and 'cat'"),
        (("café/1.png", "cafe\u0301/1.png"), None),
    ],
)
def test_folder_refuses_what_cannot_be_meant(tmp_path, opened, names, says):
    (tmp_path / "p").mkdir()
    root = put(tmp_path / "p", *names)
    if says is None:  # One name in two encodings is one class.
        assert labels(opened(root)) == ["café"]
        return
    with pytest.raises(InputError, match=says):
        opened(root)


def test_open_source_says_what_is_missing_or_unknown(tmp_path, opened):
    with pytest.raises(InputError, match="no such file or folder"):
        opened(tmp_path / "nowhere")
    (tmp_path / "x.jpg").write_bytes(jpeg(pixels(0, 0)))
    with pytest.raises(InputError, match=r"not a known kind of data set.*pergola predict"):
        opened(tmp_path / "x.jpg")


def test_stamp_changes_with_any_file(tmp_path, opened):
    root = write_folder(tmp_path / "p", per_class=2)
    before = stamp(opened(root))
    assert stamp(opened(root)) == before
    (root / "class_0/000.png").write_bytes(png(pixels(0, 99)))
    assert stamp(opened(root)) != before


# Lists


def write_list(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_list_gives_paths_labels_and_splits(tmp_path, opened):
    root = put(tmp_path / "p", "x/b.png", "x/a, too.png", "c.png")
    text = (
        f'\ufeffPath,label,split,who\nx/b.png, cat ,train,me\n"x/a, too.png",dog,VAL,you\n{root}/c.png,cat,,'
    )
    source = opened(write_list(root / "list.csv", text))
    assert rows(source) == [
        ("c.png", "cat", None),
        ("x/a, too.png", "dog", "validation"),
        ("x/b.png", "cat", "train"),
    ]
    assert source.read("c.png") == (root / "c.png").read_bytes()


def test_list_may_be_tsv_or_parquet(tmp_path, opened):
    import pyarrow as pa
    import pyarrow.parquet

    root = put(tmp_path / "p", "1.png", "2.png")
    write_list(root / "l.tsv", "path\tlabel\n1.png\t7\n2.png\t8\n")
    pyarrow.parquet.write_table(pa.table({"path": ["2.png", "1.png"], "label": [8, 7]}), root / "l.parquet")
    assert (
        rows(opened(root / "l.tsv"))
        == rows(opened(root / "l.parquet"))
        == [
            ("1.png", "7", None),
            ("2.png", "8", None),
        ]
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "path,label\n1.png,a\ngone.png,b\nx/gone.png,b\n",
            "names 2 of 3 files that do not exist, the first 'gone.png'",
        ),
        ("picture,label\n1.png,a\n", "no column 'path', only picture, label"),
        ("path,label\n1.png,\n", "1 row without a label, the first for '1.png'"),
        ("path,label,split\n1.png,a,fold 3\n", "the split 'fold 3'"),
        ("path,label\n1.png,a\n./1.png,b\n", "names 1 file more than once, the first '1.png'"),
        ("path,label\n1.png,Cat\n2.png,cat\n", "'Cat' and 'cat'"),
        ("path,label\n", "no rows"),
        ("", "cannot be read as a list"),
        ("path,label\n1.png,a,b,c\n", "cannot be read as a list"),
    ],
)
def test_list_says_what_is_wrong(tmp_path, opened, text, says):
    root = put(tmp_path / "p", "1.png", "2.png")
    with pytest.raises(InputError, match=says):
        opened(write_list(root / "list.csv", text))


# Arrays


def test_idx_gives_pairs_with_their_split(tmp_path, opened):
    images = np.random.default_rng(0).integers(0, 256, (12, 6, 5), np.uint8)
    image_files.write_idx(tmp_path / "d", "train", images, np.arange(12) % 3)
    image_files.write_idx(tmp_path / "d", "t10k", images[:2], np.array([2, 0]))
    source = opened(tmp_path / "d")
    assert source.kind == "idx"
    found = rows(source)
    assert found[:2] == [
        ("t10k-images-idx3-ubyte.gz#0", "2", "test"),
        ("t10k-images-idx3-ubyte.gz#1", "0", "test"),
    ]
    assert found[2 + 11] == ("train-images-idx3-ubyte.gz#11", "2", "train")
    data = source.read("train-images-idx3-ubyte.gz#11")
    assert data == b"P5\n5 6\n255\n" + images[11].tobytes()
    assert prepare(data)[:4] == b"\x89PNG"
    assert pickle.loads(pickle.dumps(source)).read("train-images-idx3-ubyte.gz#11") == data


def test_idx_that_is_cut_off_or_alone_is_refused(tmp_path, opened):
    images = np.zeros((4, 3, 3), np.uint8)
    image_files.write_idx(tmp_path / "d", "train", images, np.arange(4))
    file = tmp_path / "d/train-images-idx3-ubyte.gz"
    whole = file.read_bytes()
    file.write_bytes(whole[:-12])
    with pytest.raises(InputError, match="truncated or damaged"):
        opened(tmp_path / "d")
    file.write_bytes(whole)
    (tmp_path / "d/train-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError, match="no labels beside it"):
        opened(tmp_path / "d")
    assert not list((tmp_path / "scratch/unpacked").iterdir())


def cifar_folder(folder: Path, *, protocol: int = 2) -> np.ndarray:
    """CIFAR-10's files with two images each; gives all pixels, (12, 32, 32, 3)."""
    images = np.random.default_rng(1).integers(0, 256, (12, 32, 32, 3), np.uint8)
    folder.mkdir(parents=True)
    names = [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]
    for place, name in enumerate(names):
        rows_ = images[2 * place : 2 * place + 2].transpose(0, 3, 1, 2).reshape(2, -1)
        batch = {b"data": np.ascontiguousarray(rows_), b"labels": [place % 2, 1]}
        (folder / name).write_bytes(pickle.dumps(batch, protocol))
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": [b"cat", b"dog"]}, protocol))
    return images


@pytest.mark.parametrize("protocol", [2, 4])
def test_cifar_batches_are_read_without_trusting_them(tmp_path, opened, protocol):
    images = cifar_folder(tmp_path / "c", protocol=protocol)
    source = opened(tmp_path / "c")
    assert source.kind == "cifar"
    assert rows(source)[2:4] == [("data_batch_2#0", "dog", "train"), ("data_batch_2#1", "dog", "train")]
    assert rows(source)[-1] == ("test_batch#1", "dog", "test")
    assert source.read("data_batch_2#1") == b"P6\n32 32\n255\n" + images[3].tobytes()


def test_cifar_in_a_tar_is_found(tmp_path, opened):
    cifar_folder(tmp_path / "c")
    members = {f"cifar-10-batches-py/{f.name}": f.read_bytes() for f in (tmp_path / "c").iterdir()}
    assert opened(image_files.write_tar(tmp_path / "cifar-10-python.tar.gz", members)).kind == "cifar"


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/pergola-was-here",)


def test_cifar_pickle_that_would_run_code_is_refused(tmp_path, opened):
    cifar_folder(tmp_path / "c")
    (tmp_path / "c/data_batch_3").write_bytes(pickle.dumps({b"data": Evil(), b"labels": []}))
    with pytest.raises(InputError, match=r"data_batch_3.*is a pickle of more than arrays"):
        opened(tmp_path / "c")
    assert not Path("/tmp/pergola-was-here").exists()


def test_npz_gives_parts_and_names(tmp_path, opened):
    grey = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 1), np.uint8)
    np.savez(tmp_path / "d.npz", x_train=grey, y_train=np.array([[5], [7], [5], [7], [5], [7]]),
             x_test=grey[:2], y_test=np.array([7, 5]))  # fmt: skip
    source = opened(tmp_path / "d.npz")
    assert rows(source)[:3] == [
        ("d.npz/test#0", "7", "test"),
        ("d.npz/test#1", "5", "test"),
        ("d.npz/train#0", "5", "train"),
    ]
    assert source.read("d.npz/train#3") == b"P5\n5 4\n255\n" + grey[3].tobytes()


def test_npz_without_parts_and_with_texts_as_labels(tmp_path, opened):
    colour = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), np.uint8)
    np.savez_compressed(
        tmp_path / "d.npz", images=np.asfortranarray(colour), labels=np.array(["b", "a", "b"])
    )
    source = opened(tmp_path / "d.npz")
    assert [label for _, label, _ in rows(source)] == ["b", "a", "b"]
    assert source.read("d.npz#1") == b"P6\n5 4\n255\n" + colour[1].tobytes()


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x_train": np.zeros((2, 4, 4)), "y_train": np.arange(2)}, "float64"),
        ({"x_train": np.zeros((2, 4, 4, 4), np.uint8), "y_train": np.arange(2)}, "expected uint8"),
        ({"x_train": np.zeros((2, 4, 4), np.uint8), "y_train": np.arange(3)}, "expected 2 integers"),
        ({"x_train": np.array([None, 1], object), "y_train": np.arange(2)}, "cannot be read"),
        ({"pixels": np.zeros(3)}, "holds pixels: expected x_train"),
    ],
)
def test_npz_says_what_is_wrong(tmp_path, opened, arrays, says):
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(InputError, match=says):
        opened(tmp_path / "d.npz")


# Archives


def members(*names: str) -> dict[str, bytes]:
    return {name: png(pixels(0, number, size=8)) for number, name in enumerate(names)}


@pytest.mark.parametrize(("suffix", "mode"), [(".tar", "w"), (".tar.gz", "w:gz"), (".tar.xz", "w:xz")])
def test_tar_of_a_folder_is_unpacked_once(tmp_path, opened, suffix, mode):
    archive = image_files.write_tar(
        tmp_path / f"set{suffix}", members("set/train/a/1.png", "set/test/b/1.png"), mode
    )
    source = opened(archive)
    assert source.kind == "archive"
    assert rows(source) == [("test/b/1.png", "b", "test"), ("train/a/1.png", "a", "train")]
    before = [entry.stamp for entry in source.entries()]
    assert [entry.stamp for entry in opened(archive).entries()] == before
    image_files.write_tar(archive, members("a/1.png", "b/2.png"), mode)
    assert rows(opened(archive)) == [("a/1.png", "a", None), ("b/2.png", "b", None)]
    assert len(list((tmp_path / "scratch/unpacked").iterdir())) == 1


def test_zip_of_a_folder_is_unpacked(tmp_path, opened):
    with zipfile.ZipFile(tmp_path / "set.ZIP", "w") as archive:
        for name, data in members("a/1.png", "ü/2.png").items():
            archive.writestr(name, data)
    assert labels(opened(tmp_path / "set.ZIP")) == ["a", "ü"]


@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", "/abs/x.png"])
def test_archive_with_a_path_that_leads_out_is_refused(tmp_path, opened, name):
    tar = image_files.write_tar(tmp_path / "s.tar.gz", members("a/1.png", name))
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        archive.writestr("a/1.png", b"")
        archive.writestr(name, b"x")
    for location in (tar, tmp_path / "s.zip"):
        with pytest.raises(InputError, match="leads out of the archive"):
            opened(location)
    assert not list((tmp_path / "scratch/unpacked").iterdir())
    assert not (tmp_path / "x.png").exists()


def tar_with_links(path: Path, links: dict[str, str], kind: bytes) -> Path:
    import io
    import tarfile

    with tarfile.open(path, "w") as archive:
        for name, data in members("a/1.png", "b/1.png").items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
        for name, goal in links.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, goal
            archive.addfile(info)
    return path


def test_archive_links_that_stay_inside_work(tmp_path, opened):
    import tarfile

    tar = tar_with_links(tmp_path / "s.tar", {"a/2.png": "../b/1.png", "c": "b"}, tarfile.SYMTYPE)
    assert [p for p, _, _ in rows(opened(tar))] == ["a/1.png", "a/2.png", "b/1.png", "c/1.png"]
    tar = tar_with_links(tmp_path / "h.tar", {"a/2.png": "b/1.png"}, tarfile.LNKTYPE)
    assert [p for p, _, _ in rows(opened(tar))] == ["a/1.png", "a/2.png", "b/1.png"]


@pytest.mark.parametrize(
    "links",
    [{"a/2.png": "/etc/passwd"}, {"a/x": "../../.."}, {"a/x": "../b/y/../../..", "b/y": "."}],
)
def test_archive_links_that_lead_out_are_refused(tmp_path, opened, links):
    import tarfile

    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        with pytest.raises(InputError, match=r"leads out|cannot be unpacked"):
            opened(tar_with_links(tmp_path / "s.tar", links, kind))
    assert not list((tmp_path / "scratch/unpacked").iterdir())


def test_archive_devices_are_refused(tmp_path, opened):
    import tarfile

    with pytest.raises(InputError, match="not a file, folder or link"):
        opened(tar_with_links(tmp_path / "s.tar", {"a/dev": ""}, tarfile.CHRTYPE))


def test_archive_keeps_its_limits(tmp_path, opened):
    bomb = image_files.write_tar(tmp_path / "s.tar.gz", {"a/1.png": bytes(3_000_000), "b/1.png": b"x"})
    with pytest.raises(InputError, match="too many bytes"):
        opened(bomb, max_archive_bytes=2_000_000)
    with pytest.raises(InputError, match="too many files"):
        opened(bomb, max_archive_files=1)
    with zipfile.ZipFile(tmp_path / "s.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/1.png", bytes(3_000_000))
    with pytest.raises(InputError, match="too many bytes"):
        opened(tmp_path / "s.zip", max_archive_bytes=2_000_000)
    assert not list((tmp_path / "scratch/unpacked").iterdir())


@pytest.mark.parametrize("suffix", [".tar.gz", ".tar.xz", ".zip"])
def test_archive_that_is_cut_off_is_refused(tmp_path, opened, suffix):
    if suffix == ".zip":
        with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
            archive.writestr("a/1.png", os.urandom(5000))
    else:
        image_files.write_tar(tmp_path / f"s{suffix}", {"a/1.png": os.urandom(5000)}, f"w:{suffix[-2:]}")
    file = tmp_path / f"s{suffix}"
    file.write_bytes(file.read_bytes()[:2000])
    with pytest.raises(InputError, match="truncated, damaged or not an archive"):
        opened(file)
    assert not list((tmp_path / "scratch/unpacked").iterdir())


def test_archive_that_was_half_unpacked_by_a_kill_is_unpacked_anew(tmp_path, opened):
    archive = image_files.write_tar(tmp_path / "set.tar", members("a/1.png", "b/1.png"), "w")
    opened(archive)
    [whole] = (tmp_path / "scratch/unpacked").iterdir()
    half = whole.with_name(f".{whole.name}")
    whole.rename(half)
    (half / "b/1.png").unlink()
    assert labels(opened(archive)) == ["a", "b"]
    assert [p.name for p in (tmp_path / "scratch/unpacked").iterdir()] == [whole.name]


def tree(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


CHAINS = [
    {"a/x": "b/..", "a/b": "../.."},
    {"a/x": "../b/y/../../..", "b/y": "."},
    {"l": "a", "l/deep/m": "../../b"},
    {"l": "a", "a/up": "..", "a/up/up/out/made": "1.png"},
    {"x1": "x2", "x2": "x1"},
    {"up": "a/../..", "up/outside/l": "x"},
]


@pytest.mark.parametrize("links", CHAINS)
@pytest.mark.parametrize("suffix", [".tar", ".zip"])
def test_archive_makes_nothing_outside_even_when_it_is_refused(tmp_path, opened, links, suffix):
    import tarfile

    archive = tmp_path / f"s{suffix}"
    if suffix == ".tar":
        tar_with_links(archive, links, tarfile.SYMTYPE)
    else:
        with zipfile.ZipFile(archive, "w") as zipped:
            for name, data in members("a/1.png", "b/1.png").items():
                zipped.writestr(name, data)
            for name, goal in links.items():
                info = zipfile.ZipInfo(name)
                info.create_system, info.external_attr = 3, 0o120777 << 16
                zipped.writestr(info, goal)
    before = tree(tmp_path)
    with pytest.raises(InputError, match="leads out of the archive or through another link"):
        opened(archive)
    made = [path for path in tree(tmp_path) if path not in before]
    assert [path for path in made if not path.startswith("scratch")] == []
    assert [path for path in made if path.startswith("scratch/unpacked/")] == []


def test_archive_with_a_huge_header_is_refused_before_it_is_read(tmp_path, opened):
    import tarfile

    for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, tarfile.XGLTYPE):
        info = tarfile.TarInfo("././@LongLink")
        info.type, info.size = kind, 50_000_000
        with gzip.open(tmp_path / "s.tar.gz", "wb") as file:
            file.write(info.tobuf(tarfile.USTAR_FORMAT) + bytes(50_000_000))
        with pytest.raises(InputError, match="a header of 50000000 bytes"):
            opened(tmp_path / "s.tar.gz")


def test_archive_with_holes_is_refused(tmp_path, opened):
    import tarfile

    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        info = tarfile.TarInfo("a/1.png")
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9"}
        archive.addfile(info)
    with pytest.raises(InputError, match="a file with holes"):
        opened(tmp_path / "s.tar")


def test_archive_of_zeros_is_refused_by_its_ratio(tmp_path, opened):
    image_files.write_tar(tmp_path / "s.tar.gz", {"a/1.png": bytes(140_000_000), "b/1.png": b"x"})
    with pytest.raises(InputError, match="more than 200 times its size, as a bomb does"):
        opened(tmp_path / "s.tar.gz")


def test_archive_leaves_room_on_the_disk(tmp_path):
    archive = tmp_path / "s.tar"
    with open(archive, "wb") as file:
        file.truncate(10**12)  # takes no room, and allows any ratio
    target = Target.of(archive, tmp_path, 10**18, 5)
    assert target.bytes_left <= shutil.disk_usage(tmp_path).free + 10**9 - RESERVE_BYTES
    assert "this disk" in target.why_bytes


def test_zip_with_a_directory_of_too_many_files_is_refused(tmp_path, opened):
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        for number in range(30):
            archive.writestr(f"a/{number}.png", b"")
    with pytest.raises(InputError, match="too many files"):
        opened(tmp_path / "s.zip", max_archive_files=20)


@pytest.mark.filterwarnings("ignore")
def test_list_reads_regular_files_only(tmp_path, opened):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "good.png").write_bytes(png(pixels(0, 0, size=8)))
    paths = ["pipe.png", "folder.png", "/dev/zero", "good.png"]
    (tmp_path / "list.csv").write_text("path,label\n" + "".join(f"{path},a\n" for path in paths))
    source = opened(tmp_path / "list.csv")
    reasons = {Path(entry.path).name: entry.reason for entry in source.entries()}
    odd = "it is not a regular file"
    assert reasons == {"pipe.png": odd, "folder.png": odd, "zero": odd, "good.png": None}
    for path in ("pipe.png", "folder.png", "/dev/zero"):
        with pytest.raises(OSError):
            source.read(path)
