"""The cost of errors, and the decisions with the lowest expected cost.

costs.csv gives, in any unit, the cost of predicting `predicted` for an image of class `true`:

    true,predicted,cost,ask a person
    *,*,1,0.3
    death cap,champignon,1000,0.3

`*` stands for every class that no other row names; a correct prediction costs nothing unless a row says
otherwise. The optional column is the cost of asking a person about an image of that class; with it, asking is
one more action. The chosen action has the lowest expected cost under the model's probabilities (Chow 1970;
Elkan 2001), which must therefore be calibrated (see calibration.py).
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from pergola.components import records
from pergola.components.artifacts.record import Record
from pergola.components.errors import InputError

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.integer]

ASK = "ask a person"
ANY = "*"
COLUMNS = ("true", "predicted", "cost")


@dataclass(frozen=True)
class Costs(Record):
    """The cost of every action for every true class."""

    FILE: ClassVar[str] = "costs.json"

    labels: tuple[str, ...]
    actions: tuple[str, ...]  # the labels, then ASK if it is allowed
    matrix: tuple[tuple[float, ...], ...]  # [true class][action]

    def constants(self) -> npt.NDArray[np.float32]:
        """The matrix, float32 (C, A), for a model's graph: actions[argmin(probabilities @ matrix)]."""
        return np.array(self.matrix, np.float32)


def read_text(given: str) -> str:
    """The text of the file in a setting; a setting of several lines is the text itself.

    Raises InputError for a file that cannot be read or has other columns.
    """
    if "\n" in given:
        text = given
    else:
        try:
            text = Path(given).read_bytes()[: 1 << 24].decode("utf-8-sig")
        except OSError as error:
            raise InputError(f"{given} cannot be read: {error.strerror or error}.") from None
        except UnicodeDecodeError:
            raise InputError(f"{given} is not UTF-8 text: save it as 'CSV UTF-8'.") from None
    _rows(text, _place(given))
    return text


def read_costs(given: str | Path, labels: Sequence[str]) -> Costs:
    """The costs in a CSV file, or in its text, for a model with these labels, in their order.

    Raises InputError for a file that cannot be read, an unknown class, a pair given twice, a cost that is
    not a finite number, a pair without a cost, or a cost of asking for some classes only.
    """
    path = _place(str(given))
    rows = _rows(read_text(str(given)), path)
    known = (*labels, ANY)
    pairs: dict[tuple[str, str], float] = {}
    asking: dict[str, float] = {}
    for number, row in rows:
        where = f"{path}, line {number}"
        true, predicted = (_name(row, key, known, where) for key in ("true", "predicted"))
        if (true, predicted) in pairs:
            raise InputError(
                f"{where}: '{true}' predicted as '{predicted}' already has a cost. Keep one row."
            )
        pairs[true, predicted] = _number(row["cost"], where)
        asked = (row.get(ASK) or "").strip()
        if asked:
            cost = _number(asked, where)
            if asking.setdefault(true, cost) != cost:
                raise InputError(f"{where}: asking a person about '{true}' has two costs. Keep one.")
    matrix = [[_pair(pairs, true, answer, path) for answer in labels] for true in labels]
    if asking:
        for line, true in zip(matrix, labels, strict=True):
            line.append(_asking(asking, true, path))
    actions = (*labels, ASK) if asking else tuple(labels)
    return Costs(tuple(labels), actions, tuple(map(tuple, matrix)))


def expected_costs(probabilities: Floats, costs: Costs) -> Floats:
    """Expected cost of every action for every image, float64 (N, A).  probabilities: (N, C)."""
    return probabilities.astype(np.float64) @ np.array(costs.matrix)


def decide(probabilities: Floats, costs: Costs) -> Ints:
    """The cheapest action for every image, int (N,), an index in costs.actions. Ties: the first."""
    return expected_costs(probabilities, costs).argmin(axis=1)


def best_constant(labels: Ints, costs: Costs) -> int:
    """The action that is cheapest if used for all images of these true classes."""
    shares = np.bincount(labels, minlength=len(costs.labels)) / len(labels)
    return int((shares @ np.array(costs.matrix)).argmin())


def _place(given: str) -> str:
    """The name of a setting's file in error messages."""
    return "export.costs" if "\n" in given else given


def _rows(text: str, path: str) -> list[tuple[int, dict[str, str]]]:
    delimiter = max(",;\t", key=text.split("\n", 1)[0].count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restval="")
    names = [(name or "").strip() for name in reader.fieldnames or ()]
    reader.fieldnames = names
    for name in COLUMNS:
        if name not in names:
            raise InputError(
                f"{path} has no column '{name}'. Expected {', '.join(COLUMNS)} and optionally '{ASK}'."
            )
    for name in names:
        if name not in (*COLUMNS, ASK):
            raise InputError(
                f"{path} has an unknown column '{name}'.{records.nearest(name, [*COLUMNS, ASK])}"
            )
    try:
        return [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num} cannot be read as CSV: {error}.") from None


def _name(row: dict[str, str], key: str, known: Sequence[str], where: str) -> str:
    name = row[key].strip()
    if name not in known:
        raise InputError(f"{where}: '{name}' is not a class of this model.{records.nearest(name, known)}")
    return name


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{where}: '{text}' is not a cost. Expected a number such as 2.5.")
    return value


def _pair(pairs: dict[tuple[str, str], float], true: str, answer: str, path: str) -> float:
    """The cost of a pair: its own row, else the row of the true class, of the prediction, `*,*`."""
    if true == answer:
        return pairs.get((true, answer), 0.0)
    for key in ((true, answer), (true, ANY), (ANY, answer), (ANY, ANY)):
        if key in pairs:
            return pairs[key]
    raise InputError(f"{path} has no cost for '{true}' predicted as '{answer}'. Add a row, or '*,*,1'.")


def _asking(asking: dict[str, float], true: str, path: str) -> float:
    if true not in asking and ANY not in asking:
        raise InputError(f"{path} has no cost of asking a person for '{true}', but for others. Add it.")
    return asking.get(true, asking.get(ANY, 0.0))
