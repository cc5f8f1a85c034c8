"""Confident learning: estimates how many labels of each class are wrong, and which ones.

After Northcutt, Jiang, Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels", Journal
of Artificial Intelligence Research 70. Written from the paper; the tests compare it with cleanlab, the
authors' package. See docs/decisions/0020-confident-learning.md for why it is not used.

All probabilities are out of fold, by a model that was not trained on the image: float (N, C).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]
Bools = npt.NDArray[np.bool_]


def self_confidence(labels: Ints, probabilities: Floats) -> Floats:
    """The probability of each image's own label, float (N,), 0 to 1; low is suspicious."""
    return np.asarray(probabilities[np.arange(len(labels)), labels])


def confident_joint(labels: Ints, probabilities: Floats) -> Floats:
    """Estimated number of images [label][true class], float (C, C); rows sum to the images of each label.

    An image counts as class j when its probability of j reaches the mean over images labelled j (section 3.1,
    equations 1 and 2); of several such classes the most likely one counts. Rows are then scaled to the number
    of images with that label (equation 3).  labels: every class from 0 to C - 1 occurs.
    """
    num_classes = probabilities.shape[1]
    num_labelled = np.bincount(labels, minlength=num_classes)
    own = self_confidence(labels, probabilities)
    thresholds = np.bincount(labels, own, minlength=num_classes) / np.maximum(num_labelled, 1)
    # By rounding, the mean of equal numbers may exceed them.
    reached = np.where(probabilities >= thresholds - 1e-6, probabilities, -1.0)
    is_confident = reached.max(axis=1) >= 0
    reached[np.arange(len(labels)), labels] += 1e-9  # ties go to the label
    counts = np.zeros((num_classes, num_classes))
    np.add.at(counts, (labels[is_confident], reached[is_confident].argmax(axis=1)), 1.0)
    empty = counts.sum(axis=1) == 0
    counts[empty, empty] = 1.0  # no evidence of errors
    return np.asarray(counts / counts.sum(axis=1, keepdims=True) * num_labelled[:, None])


def flagged(labels: Ints, probabilities: Floats) -> Bools:
    """Which labels are considered wrong, bool (N,): pruning by noise rate (section 3.2).

    Of the images labelled i, as many as the joint estimates to be of class j: those with the largest margin
    of the probability of j over that of i. Never an image whose own label is the most likely class.
    """
    joint = confident_joint(labels, probabilities)
    own = self_confidence(labels, probabilities)
    found = np.zeros(len(labels), np.bool_)
    for given in range(len(joint)):
        rows = np.flatnonzero(labels == given)
        for true, count in enumerate(np.rint(joint[given]).astype(int)):
            if true == given or not count:
                continue
            margin = probabilities[rows, true] - own[rows]
            worst = rows[np.argsort(-margin, kind="stable")[:count]]
            found[worst] = True
    return np.asarray(found & (probabilities.max(axis=1) > own))
