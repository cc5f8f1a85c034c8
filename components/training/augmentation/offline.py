"""Offline augmentation: augmented copies of the training images, as additional shards."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pergola.components.artifacts.data import TRAIN, Shards, SplitShards
from pergola.components.imaging import decode
from pergola.components.training.input import augmentation_ops
from pergola.components.training.input.images import mapped

_PER_FILE = 5000  # images
_PHOTOGRAPH = 64  # pixels of the shorter side from which on copies are written as JPEG
_QUALITY = 95


def write(
    folder: Path, shards: Shards, policy: Mapping[str, float], out: Path, *, copies: int, seed: int
) -> SplitShards:
    """Write `copies` augmented copies of every training image, at its own size, into extra-…tfrecord.

    If the policy flips, the first, third, … copy is flipped and the others are not: a single copy with
    nothing else switched on is the mirror image. Mixup works on batches and is not applied here.
    """
    import tensorflow as tf

    split = shards.splits[TRAIN]
    num_images = split.num_images * copies
    num_files = max(1, -(-num_images // _PER_FILE))
    names = [f"extra-{k:05d}-of-{num_files:05d}.tfrecord" for k in range(num_files)]
    writers = [tf.io.TFRecordWriter(str(out / name)) for name in names]
    counts: Counter[str] = Counter()
    for number, (content, label) in enumerate(_copies(folder, shards, policy, copies, seed)):
        writers[number % num_files].write(_example(content, label))
        counts[shards.labels[label]] += 1
    for writer in writers:
        writer.close()
    return SplitShards(tuple(names), num_images, {name: counts[name] for name in shards.labels})


def _copies(
    folder: Path, shards: Shards, policy: Mapping[str, float], copies: int, seed: int
) -> Iterator[tuple[bytes, int]]:
    import tensorflow as tf

    features = {
        "image": tf.io.FixedLenFeature((), tf.string),
        "label": tf.io.FixedLenFeature((), tf.int64),
    }
    as_jpeg = shards.min_side >= _PHOTOGRAPH

    def make(number: Any, record: Any) -> Any:
        example = tf.io.parse_single_example(record, features)
        image = decode.decode_prepared(example["image"], shards.channels)
        variants = [
            _augmented_copy(image, number * copies + copy, copy, policy, seed, as_jpeg)
            for copy in range(copies)
        ]
        return tf.stack(variants), example["label"]

    files = [str(folder / name) for name in shards.splits[TRAIN].files]
    dataset = tf.data.TFRecordDataset(files).enumerate()
    for contents, label in mapped(dataset, make).as_numpy_iterator():
        for content in contents:
            yield content, int(label)


def _augmented_copy(
    image: Any, number: Any, copy: int, policy: Mapping[str, float], seed: int, as_jpeg: bool
) -> Any:
    """One augmented copy of uint8 (H, W, C), encoded."""
    import tensorflow as tf

    flips = [
        axis
        for axis, key in ((1, augmentation_ops.FLIP_HORIZONTAL), (0, augmentation_ops.FLIP_VERTICAL))
        if policy.get(key) and copy % 2 == 0
    ]
    not_applied = (augmentation_ops.FLIP_HORIZONTAL, augmentation_ops.FLIP_VERTICAL, augmentation_ops.MIXUP)
    rest = {key: value for key, value in policy.items() if key not in not_applied}
    image = tf.reverse(image, flips) if flips else image
    stream = tf.stack([tf.constant(seed, tf.int64), number])
    augmented, _ = augmentation_ops.augment(image[tf.newaxis], tf.ones((1, 1)), stream, rest)
    pixels = tf.cast(tf.round(augmented[0]), tf.uint8)
    return tf.io.encode_jpeg(pixels, quality=_QUALITY) if as_jpeg else tf.io.encode_png(pixels)


def _example(content: bytes, label: int) -> bytes:
    import tensorflow as tf

    def of_bytes(value: bytes) -> Any:
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    feature = {
        "image": of_bytes(content),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
        "id": of_bytes(hashlib.sha256(content).hexdigest().encode()),
    }
    example = tf.train.Example(features=tf.train.Features(feature=feature))
    return bytes(example.SerializeToString())
