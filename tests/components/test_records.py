from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pergola.components import records
from pergola.components.artifacts.evaluation import ClassScore, Evaluation
from pergola.components.errors import InputError


@dataclass(frozen=True)
class Oven:
    """How we bake."""

    degrees: int = records.setting(180, "heat", low=50, high=300)
    mode: str = records.setting("fan", "how", choices=("fan", "grill"))
    share: float = records.setting(0.5, "of the day", low=0, high=1)
    steps: tuple[int, ...] = records.setting((), "after another", low=1, high=9)
    notes: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Versioned:
    SCHEMA: ClassVar[int] = 3
    name: str


def test_from_dict_takes_kubeflow_floats_for_integers():
    oven = records.from_dict(Oven, {"degrees": 200.0, "steps": [1.0, 2]}, "[oven]")
    assert oven == Oven(degrees=200, steps=(1, 2))
    assert type(oven.degrees) is int


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"degreees": 1}, "unknown key 'degreees'. Did you mean 'degrees'?"),
        ({"degrees": "hot"}, "degrees: expected a whole number, got 'hot'"),
        ({"degrees": 1.5}, "degrees: expected a whole number, got 1.5"),
        ({"degrees": True}, "degrees: expected a whole number, got True"),
        ({"degrees": 10}, "degrees: 10 is out of bounds, expected 50 to 300"),
        ({"share": float("nan")}, "share: nan is out of bounds"),
        ({"mode": "grll"}, "'grll' is not one of fan, grill. Did you mean 'grill'?"),
        ({"steps": 3}, "steps: expected a list, got 3"),
        ({"steps": [2, 10]}, "steps: 10 is out of bounds, expected 1 to 9"),
        ({"notes": {"a": "b"}}, "notes.a: expected a number, got 'b'"),
    ],
)
def test_from_dict_says_what_is_wrong(data, words):
    with pytest.raises(InputError) as error:
        records.from_dict(Oven, data, "[oven]")
    assert words in str(error.value)
    assert str(error.value).startswith("[oven]: ")


def test_from_dict_wants_required_keys():
    with pytest.raises(InputError, match="key 'name' is missing"):
        records.from_dict(Versioned, {}, "x.json")


def test_load_json_refuses_another_schema(tmp_path: Path):
    records.save_json(Versioned("a"), tmp_path / "a.json")
    assert records.load_json(Versioned, tmp_path / "a.json") == Versioned("a")
    with pytest.raises(InputError, match="contains 'Versioned/3', expected 'Oven/1'"):
        records.load_json(Oven, tmp_path / "a.json")


@pytest.mark.parametrize(
    ("content", "words"), [("{", "not readable as JSON"), ("[]", "expected a JSON object")]
)
def test_load_json_refuses_broken_files(tmp_path: Path, content, words):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=words):
        records.load_json(Versioned, tmp_path / "a.json")


def test_write_atomic_leaves_the_old_file_when_it_fails(tmp_path: Path):
    target = tmp_path / "a.txt"
    records.write_atomic(target, "old")
    with pytest.raises(UnicodeEncodeError):
        records.write_atomic(target, "\udcff")
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


text = st.text(max_size=8)
share = st.floats(0, 1)


@given(
    labels=st.lists(text, max_size=4).map(tuple),
    accuracy=share,
    top_k=st.dictionaries(text, share, max_size=3),
    confusion=st.lists(st.lists(st.integers(0, 9), max_size=3).map(tuple), max_size=3).map(tuple),
    train=st.none() | share,
)
def test_evaluation_survives_a_round_trip(tmp_path_factory, labels, accuracy, top_k, confusion, train):
    folder = tmp_path_factory.mktemp("evaluation")
    score = ClassScore("a", 1.0, 0.5, 2 / 3, 4)
    before = Evaluation(
        labels=labels,
        num_images=3,
        accuracy=accuracy,
        macro_f1=accuracy,
        top_k=top_k,
        log_loss=0.1,
        train_accuracy=train,
        per_class=(score,),
        confusion=confusion,
    )
    before.save(folder)
    assert Evaluation.load(folder) == before
