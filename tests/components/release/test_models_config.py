"""models.config: what the server is told, and in which order it changes."""

from pathlib import PurePosixPath

from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from pergola.components.store import models_config
from pergola.components.store.models_config import ConfigEntry
from pergola.components.store.release_record import Release

RELEASE = Release(stable=3, canary=5, share=0.1)


def test_wanted_is_one_version_on_a_track_and_two_on_both():
    assert models_config.wanted(RELEASE, "stable") == ConfigEntry((3,), {"stable": 3})
    assert models_config.wanted(RELEASE, "canary") == ConfigEntry((5,), {"canary": 5})
    assert models_config.wanted(RELEASE, "both") == ConfigEntry((3, 5), {"stable": 3, "canary": 5})


def test_wanted_on_the_canary_track_is_the_stable_version_while_there_is_no_canary():
    assert models_config.wanted(Release(stable=3), "canary") == ConfigEntry((3,), {"stable": 3})
    assert models_config.wanted(Release(), "canary") == ConfigEntry()


def test_step_loads_the_new_version_before_its_label_moves():
    current, goal = ConfigEntry((3,), {"stable": 3}), ConfigEntry((4,), {"stable": 4})
    waiting = models_config.step(current, goal, lambda v: v == 3)
    assert waiting == ConfigEntry((3, 4), {"stable": 3})
    assert models_config.step(waiting, goal, lambda v: True) == goal


def test_step_moves_each_label_when_its_own_version_is_ready():
    current = ConfigEntry((3, 5), {"stable": 3, "canary": 5})
    goal = ConfigEntry((4, 6), {"stable": 4, "canary": 6})
    assert models_config.step(current, goal, lambda v: v != 6) == ConfigEntry(
        (4, 5, 6), {"stable": 4, "canary": 5}
    )


def test_step_gives_a_new_label_to_a_loaded_version_only():
    current, goal = ConfigEntry((3,), {"stable": 3}), ConfigEntry((5,), {"canary": 5})
    waiting = models_config.step(current, goal, lambda v: v == 3)
    assert waiting == ConfigEntry((3, 5), {"stable": 3})
    assert models_config.step(waiting, goal, lambda v: True) == goal


def test_step_starts_and_ends_at_once():
    assert models_config.step(ConfigEntry(), ConfigEntry((1,), {"stable": 1}), lambda v: False).labels == {
        "stable": 1
    }
    assert (
        models_config.step(ConfigEntry((1,), {"stable": 1}), ConfigEntry(), lambda v: False) == ConfigEntry()
    )


LABELS = st.dictionaries(st.sampled_from(["stable", "canary"]), st.integers(1, 6))


@given(LABELS, LABELS, st.sets(st.integers(1, 6)))
def test_step_never_takes_away_a_version_before_its_successor_is_ready(before, after, ready):
    current = ConfigEntry(tuple(sorted(set(before.values()))), before)
    goal = ConfigEntry(tuple(sorted(set(after.values()))), after)
    ready |= set(before.values())
    result = models_config.step(current, goal, lambda v: v in ready)
    assert set(result.labels.values()) <= set(result.versions)
    assert set(goal.versions) <= set(result.versions)
    for label, version in before.items():
        if label in after and after[label] not in ready:
            assert result.labels[label] == version
    if before:
        assert set(result.labels.values()) <= ready
    assert models_config.step(result, goal, lambda v: True) == goal


def test_to_text_is_what_the_server_parses():
    from tensorflow_serving.config import model_server_config_pb2

    configs = {
        "leaves": ConfigEntry((3, 5), {"stable": 3, "canary": 5}),
        "a.b": ConfigEntry((1,), {"stable": 1}),
        "gone": ConfigEntry(),
    }
    text = models_config.to_text(configs, PurePosixPath('/mo"dels/grün'))
    parsed = text_format.Parse(text, model_server_config_pb2.ModelServerConfig()).model_config_list.config
    assert [c.name for c in parsed] == ["a.b", "leaves"]
    assert parsed[1].base_path == '/mo"dels/grün/leaves'
    assert parsed[1].model_platform == "tensorflow"
    assert list(parsed[1].model_version_policy.specific.versions) == [3, 5]
    assert dict(parsed[1].version_labels) == {"stable": 3, "canary": 5}


def test_to_text_of_nothing_is_an_empty_list():
    from tensorflow_serving.config import model_server_config_pb2

    text = models_config.to_text({}, PurePosixPath("/models"))
    assert text_format.Parse(text, model_server_config_pb2.ModelServerConfig()).HasField("model_config_list")
