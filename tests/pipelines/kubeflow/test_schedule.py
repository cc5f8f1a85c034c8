import re
from datetime import UTC, datetime

import pytest

from pergola.components.errors import InputError, StepError
from pergola.pipelines.kubeflow.client import schedule, schedule_file
from pergola.pipelines.kubeflow.client.connection import KubeflowConnection
from tests.pipelines.kubeflow.server import write_pipeline

NOW = datetime(2026, 11, 21, tzinfo=UTC)  # a Saturday
NIGHTLY = """
[[schedule]]
name = "nightly"
package = "p.yaml"
cron = "0 3 * * 1-5"
parameters = { dataset = "/data/leaves" }
"""
WEEKLY = """
[[schedule]]
name = "weekly"
uploaded = "leaves"
cron = "30 0 4 ? * sun"
max_concurrency = 2
catch_up = true
service_account = "runner"
start = "2026-12-01T00:00:00+01:00"
"""


@pytest.fixture
def plan(tmp_path):
    """Writes a schedule file and reads it."""
    write_pipeline(tmp_path / "p.yaml", "leaves", {"dataset": {"parameterType": "STRING"}})

    def write(text):
        (tmp_path / "set.toml").write_text(text)
        return schedule_file.load(tmp_path / "set.toml")

    return write


def names(done):
    return [(one.name, one.action) for one in done]


def apply(kubeflow, plan, **options):
    return schedule.apply(KubeflowConnection(host=kubeflow.url), plan, now=NOW, **options)


def test_apply_creates_what_the_file_says(kubeflow, plan):
    pipeline = kubeflow.add_pipeline("leaves", {"pipelineInfo": {"name": "leaves"}, "root": {}})
    nightly, weekly = apply(kubeflow, plan(NIGHTLY + WEEKLY))
    assert names([nightly, weekly]) == [("nightly", "created"), ("weekly", "created")]
    assert nightly.next == tuple(f"2026-11-{day}T03:00:00+00:00" for day in (23, 24, 25))
    assert weekly.next[0] == "2026-12-06T04:00:30+00:00"
    first, second = kubeflow.recurring.values()
    assert (first["trigger"], first["max_concurrency"]) == ({"cron_schedule": {"cron": "0 0 3 * * 1-5"}}, 1)
    assert first["no_catchup"] is True and second["no_catchup"] is False
    assert first["runtime_config"]["parameters"] == {"dataset": "/data/leaves"}
    assert first["pipeline_spec"]["pipelineInfo"]["name"] == "leaves"
    assert second["trigger"]["cron_schedule"] == {
        "cron": "30 0 4 ? * sun",
        "start_time": "2026-11-30T23:00:00Z",
    }
    assert second["pipeline_version_reference"]["pipeline_id"] == pipeline
    assert second["service_account"] == "runner" and second["max_concurrency"] == 2
    assert [run["status"] for run in kubeflow.recurring.values()] == ["ENABLED", "ENABLED"]


def test_a_schedule_file_of_0_1_0_still_applies(kubeflow, plan, caplog):
    old = NIGHTLY.replace("dataset =", "photos =")
    assert names(apply(kubeflow, plan(old))) == [("nightly", "created")]
    (made,) = kubeflow.recurring.values()
    assert made["runtime_config"]["parameters"] == {"dataset": "/data/leaves"}
    assert caplog.text.count("'photos' is now called 'dataset'") == 1
    assert names(apply(kubeflow, plan(old))) == [("nightly", "unchanged")]


def test_apply_twice_changes_nothing(kubeflow, plan):
    kubeflow.add_pipeline("leaves", {"pipelineInfo": {"name": "leaves"}, "root": {}})
    first = apply(kubeflow, plan(NIGHTLY + WEEKLY))
    before = len(kubeflow.changes())
    again = apply(kubeflow, plan(NIGHTLY + WEEKLY))
    assert names(again) == [("nightly", "unchanged"), ("weekly", "unchanged")]
    assert [one.id for one in again] == [one.id for one in first]
    assert len(kubeflow.changes()) == before


@pytest.mark.parametrize(
    "change",
    [
        ("0 3 * * 1-5", "0 4 * * 1-5"),
        ("/data/leaves", "/data/other"),
        ('name = "nightly"', 'name = "nightly"\nmax_concurrency = 3'),
        ('name = "nightly"', 'name = "nightly"\ntime_zone = "Africa/Abidjan"'),
    ],
)
def test_apply_recreates_what_changed_and_only_that(kubeflow, plan, change):
    other = NIGHTLY.replace("nightly", "other")
    (old, kept) = apply(kubeflow, plan(NIGHTLY + other))
    done = apply(kubeflow, plan(NIGHTLY.replace(*change) + other))
    assert names(done) == [("nightly", "recreated"), ("other", "unchanged")]
    assert done[1].id == kept.id and done[0].id != old.id
    assert sorted(kubeflow.recurring) == sorted([done[0].id, kept.id])
    assert {run["status"] for run in kubeflow.recurring.values()} == {"ENABLED"}


def test_apply_recreates_when_the_pipeline_changed(kubeflow, plan, tmp_path):
    plan_now = plan(NIGHTLY)
    apply(kubeflow, plan_now)
    write_pipeline(
        tmp_path / "p.yaml", "leaves", {"dataset": {"parameterType": "STRING", "description": "new"}}
    )
    assert names(apply(kubeflow, plan_now)) == [("nightly", "recreated")]


def test_apply_mends_what_was_cut_off_in_between(kubeflow, plan):
    apply(kubeflow, plan(NIGHTLY))
    kubeflow.forbidden = {"DELETE"}
    changed = plan(NIGHTLY.replace("0 3", "0 4"))
    with pytest.raises(InputError, match="not allowed to change schedules"):
        apply(kubeflow, changed)
    assert sorted(run["status"] for run in kubeflow.recurring.values()) == ["DISABLED", "ENABLED"]
    kubeflow.forbidden = set()
    apply(kubeflow, changed)
    (left,) = kubeflow.recurring.values()
    assert left["trigger"]["cron_schedule"]["cron"] == "0 0 4 * * 1-5"


def test_apply_pauses_and_resumes_in_place(kubeflow, plan):
    (made,) = apply(kubeflow, plan(NIGHTLY))
    paused = plan(NIGHTLY.replace('"nightly"', '"nightly"\nenabled = false'))
    assert names(apply(kubeflow, paused)) == [("nightly", "paused")]
    assert names(apply(kubeflow, paused)) == [("nightly", "unchanged")]
    assert kubeflow.recurring[made.id]["status"] == "DISABLED"
    assert names(apply(kubeflow, plan(NIGHTLY))) == [("nightly", "resumed")]
    assert kubeflow.recurring[made.id]["status"] == "ENABLED"


def test_apply_leaves_or_prunes_what_the_file_has_no_longer(kubeflow, plan):
    apply(kubeflow, plan(NIGHTLY + NIGHTLY.replace("nightly", "old")))
    schedule.apply(
        KubeflowConnection(host=kubeflow.url), plan('name = "another"\n' + NIGHTLY.replace("nightly", "b"))
    )
    assert names(apply(kubeflow, plan(NIGHTLY))) == [("nightly", "unchanged"), ("old", "left over")]
    assert names(apply(kubeflow, plan(NIGHTLY), prune=True)) == [("nightly", "unchanged"), ("old", "deleted")]
    assert sorted(run["display_name"] for run in kubeflow.recurring.values()) == ["b", "nightly"]


def test_apply_touches_no_schedule_of_others(kubeflow, plan):
    (made,) = apply(kubeflow, plan(NIGHTLY))
    with pytest.raises(InputError, match=f"belongs to the set 'set'.*delete {made.id}"):
        apply(kubeflow, plan('name = "another"\n' + NIGHTLY))
    kubeflow.recurring[made.id]["description"] = "made by hand"
    before = len(kubeflow.changes())
    with pytest.raises(InputError, match="'nightly' exists and was not made by pergola"):
        apply(kubeflow, plan(NIGHTLY))
    assert len(kubeflow.changes()) == before


def test_apply_checks_all_before_it_changes_any(kubeflow, plan):
    for wrong, words in [
        (NIGHTLY.replace("dataset", "datset"), "no parameter 'datset'. Did you mean 'dataset'"),
        (NIGHTLY.replace("package", 'experiment = "none"\npackage'), "no experiment 'none'"),
        (NIGHTLY.replace("p.yaml", "q.yaml"), "q.yaml cannot be read"),
        (WEEKLY, "no pipeline 'leaves'. There are none yet"),
    ]:
        second = wrong.replace('name = "nightly"', 'name = "second"')
        with pytest.raises(InputError, match=words):
            apply(kubeflow, plan(NIGHTLY + second))
    assert [path for _, path in kubeflow.changes() if "recurringruns" in path] == []


def test_apply_sends_the_cron_in_the_clusters_zone(kubeflow, plan):
    tokyo = NIGHTLY.replace('"nightly"', '"nightly"\ntime_zone = "Asia/Tokyo"')
    (done,) = apply(kubeflow, plan(tokyo))
    assert done.cron == "0 0 18 * * 0,1,2,3,4" and done.next[0] == "2026-11-23T03:00:00+09:00"
    with pytest.raises(InputError, match=r"daylight saving.*cronScheduleTimezone"):
        plan(tokyo.replace("Asia/Tokyo", "Europe/Berlin"))
    berlin = 'cluster_time_zone = "Europe/Berlin"\n' + tokyo.replace("Asia/Tokyo", "Europe/Berlin")
    (done,) = apply(kubeflow, plan(berlin))
    assert done.cron == "0 0 3 * * 1-5" and done.next[0] == "2026-11-23T03:00:00+01:00"


def test_apply_compiles_our_pipelines_with_their_config(kubeflow, plan, tmp_path):
    (tmp_path / "pergola.toml").write_text("[train]\nepochs = 7\n")
    text = (
        '[cluster]\nimage = "reg.example/pergola:1"\n[[schedule]]\nname = "n"\npipeline = "retraining"\n'
        'config = "pergola.toml"\ncron = "0 3 * * *"\nparameters = { dataset = "/p", model = "m" }\n'
    )
    apply(kubeflow, plan(text))
    (job,) = kubeflow.recurring.values()
    spec = job["pipeline_spec"]["pipeline_spec"]
    declared = spec["root"]["inputDefinitions"]["parameters"]
    assert spec["pipelineInfo"]["name"] == "retraining" and declared["train"]["defaultValue"]["epochs"] == 7
    images = {e["container"]["image"] for e in spec["deploymentSpec"]["executors"].values()}
    assert images == {"reg.example/pergola:1"} and "platforms" in job["pipeline_spec"]["platform_spec"]
    (tmp_path / "pergola.toml").write_text("[train]\nepochs = 7  # as before\n")
    assert names(apply(kubeflow, plan(text))) == [("n", "unchanged")]


def test_list_pause_resume_and_delete(kubeflow, plan):
    to = KubeflowConnection(host=kubeflow.url)
    assert schedule.table(schedule.list_schedules(to)) == "No schedules."
    apply(kubeflow, plan(NIGHTLY + NIGHTLY.replace("nightly", "b") + NIGHTLY.replace("nightly", "c")))
    assert names(schedule.pause(to, ["b", "c"])) == [("b", "paused"), ("c", "paused")]
    listed = {one["name"]: one for one in schedule.list_schedules(to)}
    assert [listed[name]["enabled"] for name in ("nightly", "b", "c")] == [True, False, False]
    assert listed["b"]["set"] == "set" and listed["b"]["cron"] == "0 0 3 * * 1-5"
    assert re.search(r"paused +b ", schedule.table(list(listed.values())))
    assert names(schedule.resume(to, [listed["b"]["id"]])) == [("b", "resumed")]
    with pytest.raises(InputError, match=r"no schedule 'nightl'. Did you mean 'nightly'"):
        schedule.delete(to, ["b", "nightl"])
    assert len(kubeflow.recurring) == 3
    assert names(schedule.delete(to, ["b", "nightly"])) == [("b", "deleted"), ("nightly", "deleted")]
    assert [run["display_name"] for run in kubeflow.recurring.values()] == ["c"]


def test_apply_tells_a_server_that_fails(kubeflow, plan):
    ready = plan(NIGHTLY)
    kubeflow.failures = [500]
    with pytest.raises(StepError, match="500"):
        apply(kubeflow, ready)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no [[schedule]]"),
        ("schedule = 3", "has no [[schedule]]"),
        ("[[schedule", "cannot be read as TOML"),
        ("timezone = 'UTC'" + NIGHTLY, "unknown key 'timezone'. Did you mean 'cluster_time_zone'"),
        ("name = 'a b'" + NIGHTLY, "name may have letters"),
        ("cluster_time_zone = 'Mars'" + NIGHTLY, "cluster_time_zone: 'Mars' is not a time zone"),
        (NIGHTLY + NIGHTLY, "two schedules named 'nightly'"),
        (NIGHTLY + "crons = ''", "unknown key 'crons'. Did you mean 'cron'"),
        (NIGHTLY.replace("0 3 * * 1-5", "0 3 31 2 *"), "never fires"),
        (NIGHTLY.replace("0 3 * * 1-5", "0 25 * * *"), "out of bounds"),
        (NIGHTLY.replace('cron = "0 3 * * 1-5"', ""), "'cron' is missing"),
        (NIGHTLY + "time_zone = 'Berlin'", "time_zone: 'Berlin' is not a time zone"),
        (NIGHTLY + "max_concurrency = 11", "max_concurrency: 11 is out of bounds"),
        (
            NIGHTLY + "pipeline = 'training'",
            "give exactly one of pipeline, package and uploaded, got pipeline and package",
        ),
        (NIGHTLY + "config = 'c.toml'", "config applies to pipeline only"),
        ("[cluster]\nimages = 'x'" + NIGHTLY, "[cluster]: unknown key 'images'. Did you mean 'image'"),
        (NIGHTLY + "version = 'v1'", "version applies to uploaded only"),
        (NIGHTLY + "start = 'soon'", "'soon' is not a time"),
        (NIGHTLY + "start = '2027-01-01'\nend = '2026-01-01'", "is not after start"),
    ],
)
def test_load_refuses(plan, text, words):
    with pytest.raises(InputError) as error:
        plan(text)
    assert words in str(error.value)


def test_load_refuses_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"none\.toml does not exist"):
        schedule_file.load(tmp_path / "none.toml")
