"""A SavedModel as a callable."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from pergola.serving.server.config.errors import RuntimeFailure
from pergola.serving.server.core.model import RuntimeSettings, _in_steps, load
from tests.support import models


@pytest.fixture(scope="module")
def leaves(tmp_path_factory):
    """Version folders 1 and 2 of an image classifier, whose graph takes the optimiser some 40 ms."""
    base = tmp_path_factory.mktemp("leaves")
    return models.classifier(base, 1), models.classifier(base, 2)


IMAGES = np.array([models.image_bytes(240)], object)


def ask(model, images=IMAGES, outputs=("label",)):
    """Some outputs of the default signature, so that it takes another way than all of them do."""
    signature = model.signatures["serving_default"]
    return model.run({signature.inputs["image"]: images}, [signature.outputs[name] for name in outputs])[0]


def cpu_s(action, clock=time.thread_time) -> float:
    started = clock()
    action()
    return clock() - started


def test_a_version_is_ready_for_what_was_asked_of_the_one_before(leaves):
    ways = set()
    old = load(leaves[0], RuntimeSettings(), ways)
    unprepared = cpu_s(lambda: ask(old))
    new = load(leaves[1], RuntimeSettings(), ways)
    assert cpu_s(lambda: ask(new)) < unprepared / 3
    assert ask(new).tolist() == [b"bright"]


def test_the_first_version_is_ready_for_its_default_signature(leaves):
    model = load(leaves[0], RuntimeSettings())
    every = sorted(model.signatures["serving_default"].outputs)
    assert cpu_s(lambda: ask(model, outputs=every)) < cpu_s(lambda: ask(model)) / 3


def test_one_of_many_first_requests_prepares_for_all(leaves):
    def together(model):
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(lambda _: ask(model).tolist(), range(8))) == [[b"bright"]] * 8

    alone, crowd = (load(leaves[0], RuntimeSettings()) for _ in range(2))
    once = cpu_s(lambda: ask(alone), time.process_time)
    assert cpu_s(lambda: together(crowd), time.process_time) < 4 * once


def test_what_a_new_version_no_longer_has_is_left_out(leaves, tmp_path):
    ways = set()
    ask(load(leaves[0], RuntimeSettings(), ways))
    other = load(models.half_plus_two(tmp_path), RuntimeSettings(), ways)
    signature = other.signatures["serving_default"]
    got = other.run({signature.inputs["x"]: np.ones(1, np.float32)}, [signature.outputs["y"]])[0]
    assert got.tolist() == [2.5] and len(ways) == 3


def test_a_refused_request_leaves_the_way_open(leaves):
    model = load(leaves[0], RuntimeSettings())
    with pytest.raises(RuntimeFailure, match="to be string but float is provided"):
        ask(model, np.ones(1, np.float32))
    with pytest.raises(RuntimeFailure, match="nowhere"):
        model.run({"nowhere:0": np.ones(1)}, ["nothing:0"])
    assert ask(model).tolist() == [b"bright"]


def test_deadlines_become_few_limits_that_are_never_shorter():
    limits = {ms: _in_steps(ms) for ms in range(1, 70_000)}
    assert all(ms <= limit <= 1.25 * ms for ms, limit in limits.items())
    assert len(set(limits.values())) < 70
