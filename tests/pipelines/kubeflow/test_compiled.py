import pytest
import yaml

from pergola.components import code
from pergola.components.errors import InputError
from pergola.components.settings import load
from pergola.pipelines.kubeflow import compiled, submit
from pergola.pipelines.kubeflow.cluster import ClusterSettings

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

CLUSTER = ClusterSettings(image="reg.example/pergola:7-cpu", train_image="reg.example/pergola:7-gpu",
                          pull_secret="reg", retries=2, train_timeout_s=7200)  # fmt: skip
BEFORE_GATE = {"settings", "listing", "scan", "validate", "split", "shards", "augment", "train", "export",
               "evaluate", "smoke_test", "champion", "gate", "report", "register"}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compiled")
    settings = load(None, ["train.epochs=3"])
    return {name: compiled.compile_to(folder / f"{name}.yaml", name, settings=settings, cluster=CLUSTER)
            for name in compiled.PIPELINES}  # fmt: skip


@pytest.fixture(scope="module")
def training(files):
    return documents(files["training"])


def documents(path):
    return list(yaml.load_all(path.read_text(), Loader=yaml.CSafeLoader))


def tasks(spec, component):
    return spec["components"][component]["dag"]["tasks"]


def executor(spec, step):
    return spec["deploymentSpec"]["executors"][f"exec-{step}"]["container"]


def test_training_ships_only_what_the_gate_accepted(training):
    spec, _ = training
    run = tasks(spec, "comp-exit-handler-1")
    inside = "condition-2"
    assert set(run) == BEFORE_GATE | {inside}
    condition = run[inside]["triggerPolicy"]["condition"]
    assert condition == "inputs.parameter_values['pipelinechannel--gate-Output'] == 'accepted'"
    assert set(tasks(spec, f"comp-{inside}")) == {"reference", "publish", "confirm", "deliver"}
    assert tasks(spec, f"comp-{inside}")["confirm"]["inputs"]["artifacts"]["publication"]


def test_training_tells_how_it_ended_whatever_happened(training):
    root = training[0]["root"]["dag"]["tasks"]
    assert set(root) == {"exit-handler-1", "finish"}
    assert root["finish"]["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"


def test_retraining_does_nothing_more_when_nothing_changed(files):
    spec = documents(files["retraining"])[0]
    run = tasks(spec, "comp-exit-handler-1")
    assert set(run) == {"settings", "listing", "scan", "changes", "condition-2"}
    assert run["condition-2"]["triggerPolicy"]["condition"].endswith("-Output'] == 'changed'")
    assert set(tasks(spec, "comp-condition-2")) == (BEFORE_GATE - {"settings", "listing", "scan"}) | {
        "condition-3"
    }


def test_steps_are_keyed_by_their_code_and_effects_are_never_cached(training):
    spec, _ = training
    found = {**tasks(spec, "comp-exit-handler-1"), **tasks(spec, "comp-condition-2")}
    for step in ("scan", "split", "train", "evaluate", "gate"):
        given = found[step]["inputs"]["parameters"]["code"]["runtimeValue"]["constant"]
        assert given == code.of_step(step) and found[step]["cachingOptions"]["enableCache"] is True
    for step in ("listing", "champion", "register", "publish", "confirm", "deliver"):
        assert not found[step]["cachingOptions"].get("enableCache"), step
    assert (
        found["scan"]["inputs"]["parameters"]["listing"]["taskOutputParameter"]["producerTask"] == "listing"
    )


def test_train_asks_for_what_the_run_says(training):
    spec, platform = training
    train = executor(spec, "train")
    assert train["image"] == "reg.example/pergola:7-gpu" and executor(spec, "scan")["image"].endswith("-cpu")
    resources = train["resources"]
    for key, parameter in (("resourceType", "accelerator"), ("resourceCount", "accelerator_count")):
        assert resources["accelerator"][key] == f"{{{{$.inputs.parameters['pipelinechannel--{parameter}']}}}}"
    passed = tasks(spec, "comp-exit-handler-1")["train"]["inputs"]["parameters"]
    assert {"pipelinechannel--accelerator", "pipelinechannel--accelerator_count"} <= set(passed)
    handler = spec["components"]["comp-exit-handler-1"]["inputDefinitions"]["parameters"]
    assert {"pipelinechannel--accelerator", "pipelinechannel--node_selector"} <= set(handler)
    pod = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-train"]
    assert (
        pod["nodeSelector"]["nodeSelectorJson"]["componentInputParameter"] == "pipelinechannel--node_selector"
    )
    assert (
        pod["tolerations"][0]["tolerationJson"]["componentInputParameter"] == "pipelinechannel--tolerations"
    )
    assert (
        pod["emptyDirMounts"][0]["medium"] == "Memory" and pod["emptyDirMounts"][0]["mountPath"] == "/dev/shm"
    )
    assert pod["activeDeadlineSeconds"] == "7200"


def test_every_pod_has_limits_workspace_labels_and_a_time(training):
    spec, platform = training
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(pods) == set(spec["deploymentSpec"]["executors"])
    for name, pod in pods.items():
        resources = spec["deploymentSpec"]["executors"][name]["container"]["resources"]
        assert resources["resourceCpuRequest"] and resources["resourceMemoryLimit"], name
        assert pod["pvcMount"][0]["mountPath"] == "/workspace" and pod["imagePullSecret"], name
        assert pod["podMetadata"]["labels"]["app.kubernetes.io/part-of"] == "pergola", name
        assert pod["fieldPathAsEnv"] == [
            {"name": "PERGOLA_RUN_ID", "fieldPath": "metadata.labels['pipeline/runid']"}
        ]
        assert pod["secretAsEnv"][0]["optional"] is True and pod["activeDeadlineSeconds"], name


def test_steps_are_tried_again_where_that_can_help(training):
    spec, _ = training
    run = tasks(spec, "comp-exit-handler-1")
    assert run["train"]["retryPolicy"] == {"backoffDuration": "30s", "backoffFactor": 2.0,
                                           "backoffMaxDuration": "600s", "maxRetryCount": 2}  # fmt: skip
    assert "retryPolicy" not in run["gate"] and "retryPolicy" not in run["evaluate"]


def test_parameters_are_one_struct_a_step_with_the_settings_as_defaults(training):
    declared = training[0]["root"]["inputDefinitions"]["parameters"]
    assert declared["train"]["defaultValue"]["epochs"] == 3 and declared["gate"]["parameterType"] == "STRUCT"
    needed = [name for name in declared if "defaultValue" not in declared[name]]
    assert needed == ["model", "dataset"]
    given = submit.checked(
        {"dataset": "/data", "model": "m", "accelerator_count": 1, "train": {"epochs": 9}}, training[0]
    )
    assert given["accelerator_count"] == "1"


def test_scan_and_shards_fan_out_and_workers_train_where_the_cluster_says_so(tmp_path):
    cluster = ClusterSettings(image="reg.example/pergola:7-cpu", train_image="reg.example/pergola:7-gpu",
                              partitions=3, workers=4, train_timeout_s=7200)  # fmt: skip
    file = compiled.compile_to(tmp_path / "retraining.yaml", "retraining", cluster=cluster)
    spec, platform = documents(file)
    outer, inner = tasks(spec, "comp-exit-handler-1"), tasks(spec, "comp-condition-4")
    loops = {
        task["taskInfo"]["name"]: task
        for task in (*outer.values(), *inner.values())
        if "parameterIterator" in task
    }
    assert set(loops) == {"scan-parts", "shards-parts"}
    for loop in loops.values():
        assert loop["parameterIterator"]["items"]["raw"] == "[0, 1, 2]"
    assert outer["merge-scans"]["inputs"]["artifacts"]["parts"]["taskOutputArtifact"][
        "producerTask"
    ].startswith("for-loop")
    assert inner["validate"]["inputs"]["artifacts"]["manifest"] and "merge-shards" in inner
    assert not {"scan", "shards", "train"} & (set(outer) | set(inner))

    train = inner["train-workers"]["inputs"]["parameters"]
    asked = train["workers"]["runtimeValue"]["constant"]
    assert (asked["count"], asked["image"], asked["runtime"]) == (
        4,
        "reg.example/pergola:7-gpu",
        "pergola-train",
    )
    assert executor(spec, "train-workers")["image"].endswith("-cpu")
    assert "accelerator" not in executor(spec, "train-workers")["resources"]
    pod = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-train-workers"]
    known = {entry["name"]: entry["fieldPath"] for entry in pod["fieldPathAsEnv"]}
    assert known["PERGOLA_NAMESPACE"] == "metadata.namespace" and known["PERGOLA_POD_UID"] == "metadata.uid"
    assert pod["activeDeadlineSeconds"] == "7200"


def test_compiling_twice_gives_the_same(training, tmp_path):
    settings = load(None, ["train.epochs=3"])
    again = compiled.compile_to(tmp_path / "again.yaml", settings=settings, cluster=CLUSTER)
    assert documents(again) == training


def test_compile_to_refuses(tmp_path):
    with pytest.raises(InputError, match=r"no pipeline 'train'\. Did you mean 'training'"):
        compiled.compile_to(tmp_path / "a.yaml", "train")
    with pytest.raises(InputError, match=r"wants to end with \.yaml"):
        compiled.compile_to(tmp_path / "a.json")
    with pytest.raises(InputError, match=r"The folder of .* does not exist"):
        compiled.compile_to(tmp_path / "none" / "a.yaml")
