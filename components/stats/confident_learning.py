"""Confident learning: how many labels of each class are really another one, and which.

After Northcutt, Jiang, Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels", Journal
of Artificial Intelligence Research 70. Written from the paper; the tests hold it against its authors'
package cleanlab. Why it is ours is said in docs/decisions/0020-confident-learning.md.

Probabilities are out of fold everywhere here: of an image by a model that has not seen it, float (N, C).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]
Bools = npt.NDArray[np.bool_]


def self_confidence(labels: Ints, probabilities: Floats) -> Floats:
    """How likely each image's own label is, float (N,), 0 to 1; low is suspicious."""
    return np.asarray(probabilities[np.arange(len(labels)), labels])


def confident_joint(labels: Ints, probabilities: Floats) -> Floats:
    """Images [called i][really j], float (C, C), estimated; rows sum to the images called i.

    An image counts as a j when its probability of j reaches the mean that images called j have (section
    3.1, equations 1 and 2); of several such classes the likeliest one counts. Rows are then scaled to the
    number of images called so (equation 3).  labels: every class from 0 to C - 1 occurs.
    """
    num_classes = probabilities.shape[1]
    called = np.bincount(labels, minlength=num_classes)
    own = self_confidence(labels, probabilities)
    thresholds = np.bincount(labels, own, minlength=num_classes) / np.maximum(called, 1)
    # A sum of equal numbers may come out above them by rounding.
    reached = np.where(probabilities >= thresholds - 1e-6, probabilities, -1.0)
    sure = reached.max(axis=1) >= 0
    reached[np.arange(len(labels)), labels] += 1e-9  # of equals, what it is called
    counts = np.zeros((num_classes, num_classes))
    np.add.at(counts, (labels[sure], reached[sure].argmax(axis=1)), 1.0)
    nobody = counts.sum(axis=1) == 0
    counts[nobody, nobody] = 1.0  # no evidence of errors
    return np.asarray(counts / counts.sum(axis=1, keepdims=True) * called[:, None])


def wrong(labels: Ints, probabilities: Floats) -> Bools:
    """Which labels are called wrong, bool (N,): pruned by noise rate (section 3.2).

    Of the images called i as many as the joint says are a j, those that are likeliest to be j rather than
    i, and none that is likelier to be what it is called.
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
