"""Label errors: precision of the ranked list with 5% of labels flipped, and what a clean set raises.

scripts/bench label_errors [--dataset FOLDER] [--weights FILE.h5] [--quarter FILE.h5] [--seeds 3] [--json]

Embeddings are those of MobileNetV2 and of MobileNet at a quarter of its width, with weights from files, and
plain features that need none. FOLDER is ../shared/data/leaves unless named.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pergola.components.data.checks.label_errors import LabelErrorSettings, find_label_errors
from pergola.components.imaging.embeddings import Embed, embed_all, keras_embed, plain_embed

DATASET = Path("../shared/data/leaves")
WEIGHTS = Path("../shared/data/weights/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5")
QUARTER = WEIGHTS.with_name("mobilenet_2_5_224_tf_no_top.h5")
SHARE = 0.05


def measure(dataset: Path, embeddings: dict[str, Embed], seeds: int) -> dict[str, Any]:
    """Figures of each embedding."""
    files = sorted(path for path in dataset.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    labels = [path.parent.name for path in files]
    ids = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    paths = [path.relative_to(dataset).as_posix() for path in files]
    result: dict[str, Any] = {
        "dataset": dataset.name,
        "images": len(files),
        "flipped": round(SHARE * len(files)),
    }
    for name, embed in embeddings.items():
        print(f"{name} …", file=sys.stderr)
        start = time.process_time()
        vectors = embed_all((path.read_bytes() for path in files), embed)
        embedding_s = time.process_time() - start
        clean = find_label_errors(vectors, ids, paths, labels)
        trials = [_trial(vectors, ids, paths, labels, seed) for seed in range(seeds)]
        result[name] = {
            "embedding_cpu_s": round(embedding_s, 1),
            "flagged_in_clean": clean.num_flagged,
            **{key: _spread([trial[key] for trial in trials]) for key in trials[0]},
        }
    return result


def _trial(
    vectors: np.ndarray, ids: Sequence[str], paths: Sequence[str], labels: Sequence[str], seed: int
) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    classes, given = sorted(set(labels)), list(labels)
    places = rng.choice(len(labels), round(SHARE * len(labels)), replace=False)
    for place in places:
        given[place] = str(rng.choice([name for name in classes if name != labels[place]]))
    wrong = {ids[place] for place in places}
    start = time.process_time()
    errors = find_label_errors(vectors, ids, paths, given, settings=LabelErrorSettings(max_listed=len(ids)))
    seconds = time.process_time() - start
    first = [suspect.id in wrong for suspect in errors.suspects[: len(places)]]
    flagged = [suspect.id in wrong for suspect in errors.suspects if suspect.flagged]
    return {
        "precision_of_first_5_percent": float(np.mean(first)),
        "precision_of_flagged": float(np.mean(flagged)),
        "recall_of_flagged": sum(flagged) / len(wrong),
        "search_cpu_s": seconds,
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "mean": round(float(np.mean(values)), 3),
        "low": round(min(values), 3),
        "high": round(max(values), 3),
    }


def table(result: dict[str, Any]) -> str:
    """The figures for people."""
    lines = [f"{result['dataset']}: {result['images']} images, {result['flipped']} labels flipped"]
    for name, one in result.items():
        if isinstance(one, dict):
            lines.append(
                f"{name}: {one.pop('embedding_cpu_s')} s of CPU to embed, "
                f"{one.pop('flagged_in_clean')} flagged when nothing is flipped"
            )
            lines += [f"  {key:32} {v['mean']:6.3f}  ({v['low']} to {v['high']})" for key, v in one.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench label_errors", description=__doc__)
    parser.add_argument("--dataset", type=Path, default=DATASET, help="a folder a class")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="MobileNetV2 without top, .h5")
    parser.add_argument("--quarter", type=Path, default=QUARTER, help="MobileNet 0.25 without top, .h5")
    parser.add_argument("--seeds", type=int, default=3, help="flips are drawn so often (default 3)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    embeddings = {
        "MobileNet 0.25": keras_embed(options.quarter, "MobileNet"),
        "MobileNetV2": keras_embed(options.weights),
        "plain": plain_embed,
    }
    result = measure(options.dataset, embeddings, options.seeds)
    print(json.dumps(result) if options.json else table(result))


if __name__ == "__main__":
    main()
