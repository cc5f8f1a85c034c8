"""The whole judgement on real images: the 1,797 handwritten digits of scikit-learn."""

import hashlib
import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from pergola.components.artifacts.data import Shards, Split, SplitShards
from pergola.components.artifacts.smoke_test import SmokeTest
from pergola.components.data.tfrecord import example, record
from pergola.components.evaluation.evaluate import EvaluateSettings, evaluate
from pergola.components.evaluation.gate.gate import GateInputs, GateSettings, decide
from pergola.components.stats.compare import compare_evaluations
from tests.components.evaluation.conftest import Walk

LABELS = tuple("0123456789")
SERVED = SmokeTest(True, "", 25, 1e-7)
SETTINGS = EvaluateSettings(train_sample=300, baseline_sample=400, robustness_sample=60)


def pixels_of(images):
    return np.stack([np.asarray(Image.open(io.BytesIO(image)).convert("L")) for image in images]).reshape(
        -1, 64
    )


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    root = tmp_path_factory.mktemp("digits")
    shards, split = root / "shards", root / "split"
    shards.mkdir()
    split.mkdir()
    rows, found = [], {"train": [], "test": []}
    for number, (pixels, label) in enumerate(zip(*load_digits(return_X_y=True), strict=True)):
        buffer = io.BytesIO()
        Image.fromarray((pixels.reshape(8, 8) * 15.9).astype(np.uint8)).save(buffer, "PNG")
        id = hashlib.sha256(buffer.getvalue()).hexdigest()
        part = "test" if int(id, 16) % 100 < 15 else "train"
        rows.append((id, f"{label}/{number}.png", str(label), part, id))
        found[part].append((buffer.getvalue(), int(label), id))
    parts = {}
    for part, pictures in found.items():
        data = [record(example({"image": i, "label": n, "id": h.encode()})) for i, n, h in pictures]
        (shards / f"{part}.tfrecord").write_bytes(b"".join(data))
        parts[part] = SplitShards((f"{part}.tfrecord",), len(pictures), {})
    Shards(LABELS, parts, 1, 8, 8, 8, 8, "0" * 64).save(shards)
    table = pd.DataFrame(rows, columns=["id", "path", "label", "split", "group"]).drop_duplicates("id")
    table.to_parquet(split / "split.parquet")
    Split({part: len(pictures) for part, pictures in found.items()}, {}, "0" * 64).save(split)
    return Walk(shards, split), found["train"]


def learnt(train, num):
    """Logistic regression on `num` training images, as a predict function."""
    rows = train[:num]
    model = LogisticRegression(max_iter=2000)
    model.fit(pixels_of([image for image, _, _ in rows]) / 255, [label for _, label, _ in rows])
    return lambda images: model.predict_proba(pixels_of(images) / 255).astype(np.float32)


def test_a_good_model_ships_and_a_bad_one_does_not(digits, tmp_path):
    walk, train = digits
    good = evaluate(learnt(train, None), walk.shards, walk.split, tmp_path / "good", SETTINGS)
    decision = decide(GateInputs(good, SERVED), GateSettings())
    assert good.accuracy > 0.94
    assert decision.accepted, decision.reasons

    rng = np.random.default_rng(0)
    bad = evaluate(
        lambda images: rng.dirichlet(np.ones(10), len(images)).astype(np.float32),
        walk.shards, walk.split, tmp_path / "bad", SETTINGS,
    )  # fmt: skip
    names = {rule.name for rule in decide(GateInputs(bad, SERVED), GateSettings()).rules if not rule.passed}
    assert {"accuracy", "baseline", "class_recall"} <= names

    few = evaluate(learnt(train, 80), walk.shards, walk.split, tmp_path / "few", SETTINGS)
    pair = compare_evaluations(tmp_path / "few", tmp_path / "good")
    decision = decide(GateInputs(few, SERVED, pair, 1), GateSettings())
    assert few.accuracy < good.accuracy
    assert "champion" in {rule.name for rule in decision.rules if not rule.passed}
