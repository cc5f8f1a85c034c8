import json
import re

import pytest
import yaml

from pergola.components.errors import InputError
from pergola.components.settings import load
from pergola.pipelines.definition import REGISTRY, STORE, TRAINING
from pergola.pipelines.kubeflow import compiled, compiler
from pergola.pipelines.kubeflow.client import submit
from pergola.pipelines.kubeflow.cluster import BUCKET_KEYS, SECRET_KEYS, ClusterSettings, PodNeeds

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

IMAGES = {"image": "reg.example/pergola:7-cpu", "train_image": "reg.example/pergola:7-gpu"}
CLUSTER = ClusterSettings(**IMAGES, pull_secret="reg", retries=2, train_timeout_s=7200)
ALONE = ClusterSettings(**IMAGES, pull_secret="reg", retries=2, train_timeout_s=7200, group="none")
GROUPS = {"data", "train", "champion", "evaluate", "release"}
IF_ACCEPTED = {"final-test", "confirm"}
UP_TO_GATE = {"scan", "validate", "split", "shards", "augment", "train", "export", "champion", "evaluate",
              "smoke_test", "evaluate_champion", "gate", "report", "reference", "register"}  # fmt: skip
RELEASED = {"publish", "final-test", "confirm", "deliver"}
KEYS = {"registry": set(SECRET_KEYS["registry"]), "webhook": {"PERGOLA_WEBHOOK_URL"}}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Compiled pipelines: documents by name and group."""
    folder = tmp_path_factory.mktemp("compiled")
    settings = load(None, ["train.epochs=3"])
    found = {}
    for cluster in (CLUSTER, ALONE):
        for name in compiled.PIPELINES:
            path = folder / f"{name}-{cluster.group}.yaml"
            compiled.compile_to(path, name, settings=settings, cluster=cluster)
            found[name, cluster.group] = documents(path)
    return found


@pytest.fixture(scope="module")
def training(files):
    """With groups."""
    return files["training", "auto"]


@pytest.fixture(scope="module")
def separate(files):
    """With a task for each step."""
    return files["training", "none"]


def documents(path):
    return list(yaml.load_all(path.read_text(), Loader=yaml.CSafeLoader))


def tasks(spec, component="comp-exit-handler-1"):
    return spec["components"][component]["dag"]["tasks"]


def executor(spec, task):
    return spec["deploymentSpec"]["executors"][f"exec-{task}"]["container"]


def pods(platform):
    """Kubernetes settings by task."""
    found = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return {name.removeprefix("exec-"): pod for name, pod in found.items()}


def dashed(names):
    return {name.replace("_", "-") for name in names}


def groups_of(**cluster):
    return [[step.name for step in group]
            for group in compiler.groups_of(TRAINING.steps, ClusterSettings(**cluster))]  # fmt: skip


def test_groups_make_nine_tasks_of_a_training(training):
    spec, _ = training
    assert set(tasks(spec)) == GROUPS | {"check", "condition-2"}
    assert set(tasks(spec, "comp-condition-2")) == IF_ACCEPTED
    assert len(spec["deploymentSpec"]["executors"]) == len(GROUPS | IF_ACCEPTED | {"check", "finish"}) == 9


@pytest.mark.parametrize("cluster", [{}, {"partitions": 2}, {"workers": 2}, {"partitions": 2, "workers": 2}])
def test_no_group_crosses_a_boundary(cluster):
    """Of secrets and untrusted images, of accelerators; over all rows, in their order."""
    groups = groups_of(**cluster)
    assert [name for group in groups for name in group] == [step.name for step in TRAINING.steps]
    for names in groups:
        steps = [TRAINING.by_name[name] for name in names]
        secrets = {secret for step in steps for secret in step.secrets}
        assert not (secrets and any(step.decodes for step in steps)), names
        assert len({step.accelerator for step in steps}) == 1, names


def test_steps_that_several_pods_do_are_alone_in_their_task():
    assert groups_of(partitions=2)[:3] == [["scan"], ["validate", "split"], ["shards"]]
    assert ["train"] in groups_of(workers=2) and ["augment", "train", "export"] not in groups_of(workers=2)
    assert groups_of(group="none") == [[step.name] for step in TRAINING.steps]


def test_a_group_of_the_release_is_skipped_inside_the_task_and_else_by_a_condition(training, separate):
    release = tasks(training[0])["release"]
    assert release["inputs"]["artifacts"]["decision"]["taskOutputArtifact"]["producerTask"] == "evaluate"
    spec, _ = separate
    inside = "condition-2"
    assert set(tasks(spec)) == dashed(UP_TO_GATE) | {"check", inside}
    condition = tasks(spec)[inside]["triggerPolicy"]["condition"]
    assert condition == "inputs.parameter_values['pipelinechannel--gate-Output'] == 'accepted'"
    assert set(tasks(spec, f"comp-{inside}")) == RELEASED
    condition = tasks(training[0])[inside]["triggerPolicy"]["condition"]
    assert condition == "inputs.parameter_values['pipelinechannel--evaluate-Output'] == 'accepted'"
    assert tasks(spec, f"comp-{inside}")["confirm"]["inputs"]["artifacts"]["publication"]


def test_an_exit_task_reports_how_a_run_ended(training, separate):
    for spec, _ in (training, separate):
        root = spec["root"]["dag"]["tasks"]
        assert set(root) == {"exit-handler-1", "finish"}
        assert root["finish"]["triggerPolicy"]["strategy"] == "ALL_UPSTREAM_TASKS_COMPLETED"


def test_retraining_does_nothing_more_when_nothing_changed(files):
    for group, rest in (
        ("auto", GROUPS | {"condition-3"}),
        ("none", dashed(UP_TO_GATE - {"scan"}) | {"condition-3"}),
    ):
        spec = files["retraining", group][0]
        assert set(tasks(spec)) == {"check", "scan", "changes", "condition-2"}
        assert tasks(spec)["condition-2"]["triggerPolicy"]["condition"].endswith("-Output'] == 'changed'")
        assert set(tasks(spec, "comp-condition-2")) == rest


def code_of(task):
    return task["inputs"]["parameters"]["code"]["runtimeValue"]["constant"]


def test_tasks_are_keyed_by_their_code_and_effects_are_never_cached(training, separate):
    spec, _ = separate
    found = {**tasks(spec), **tasks(spec, "comp-condition-2")}
    for name in ("scan", "split", "train", "evaluate", "gate"):
        assert code_of(found[name]) == TRAINING.by_name[name].code_digest()[:12]
        assert found[name]["cachingOptions"]["enableCache"] is True
    for name in ("check", "champion", "register", "publish", "final-test", "confirm", "deliver"):
        assert not found[name]["cachingOptions"].get("enableCache"), name
    grouped = {**tasks(training[0]), **tasks(training[0], "comp-condition-2")}
    names = ("augment", "train", "export")
    assert code_of(grouped["train"]) == "-".join(TRAINING.by_name[n].code_digest()[:12] for n in names)
    cached = {name for name, task in grouped.items() if task.get("cachingOptions", {}).get("enableCache")}
    assert cached == {"data", "train", "evaluate"}
    for run, task in ((found, "scan"), (grouped, "data")):
        listing = run[task]["inputs"]["parameters"]["listing"]["taskOutputParameter"]
        assert listing == {"producerTask": "check", "outputParameterKey": "listing"}


def test_training_runs_on_what_the_run_asks_for(training):
    spec, platform = training
    train = executor(spec, "train")
    assert train["image"].endswith("-gpu") and executor(spec, "data")["image"].endswith("-cpu")
    resources = train["resources"]
    for key, parameter in (("resourceType", "accelerator"), ("resourceCount", "accelerator_count")):
        assert resources["accelerator"][key] == f"{{{{$.inputs.parameters['pipelinechannel--{parameter}']}}}}"
    assert [name for name in GROUPS if "accelerator" in executor(spec, name)["resources"]] == ["train"]
    passed = tasks(spec)["train"]["inputs"]["parameters"]
    assert {"pipelinechannel--accelerator", "pipelinechannel--accelerator_count"} <= set(passed)
    handler = spec["components"]["comp-exit-handler-1"]["inputDefinitions"]["parameters"]
    assert {"pipelinechannel--accelerator", "pipelinechannel--node_selector"} <= set(handler)
    pod = pods(platform)["train"]
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


def test_every_pod_has_limits_workspace_labels_and_a_time(files):
    for spec, platform in files.values():
        found = pods(platform)
        assert set(found) == {name.removeprefix("exec-") for name in spec["deploymentSpec"]["executors"]}
        for name, pod in found.items():
            container = executor(spec, name)
            resources = container["resources"]
            assert resources["resourceCpuRequest"] and resources["resourceMemoryLimit"], name
            assert pod["pvcMount"][0]["mountPath"] == "/workspace" and pod["imagePullSecret"], name
            assert pod["podMetadata"]["labels"]["app.kubernetes.io/part-of"] == "pergola", name
            assert pod["fieldPathAsEnv"] == [
                {"name": "PERGOLA_RUN_ID", "fieldPath": "metadata.labels['pipeline/runid']"}
            ]
            assert pod["activeDeadlineSeconds"], name
            assert {"name": "PYTHONSAFEPATH", "value": "1"} in container["env"], name


def test_every_pod_runs_as_our_user_and_never_as_root(files, tmp_path):
    for _, platform in files.values():
        for name, pod in pods(platform).items():
            wanted = {"runAsUser": "10001", "runAsGroup": "10001", "runAsNonRoot": True}
            assert pod["securityContext"] == wanted, name
    assigned = ClusterSettings(**IMAGES, run_as_user=0, run_as_group=0)
    _, platform = documents(compiled.compile_to(tmp_path / "assigned.yaml", cluster=assigned))
    assert all(pod["securityContext"] == {"runAsNonRoot": True} for pod in pods(platform).values())
    old = ClusterSettings(**IMAGES, security_context=False)
    _, platform = documents(compiled.compile_to(tmp_path / "old.yaml", cluster=old))
    assert not any("securityContext" in pod for pod in pods(platform).values())


def secrets_of(pod):
    """Environment variables from the Secret; every key may be missing from it."""
    found = pod.get("secretAsEnv", [])
    assert all(entry["optional"] is True for entry in found)
    return {pair["envVar"] for entry in found for pair in entry["keyToEnv"]}


def test_a_pod_gets_only_the_secret_keys_that_it_needs(files):
    _, platform = files["training", "auto"]
    found = {name: secrets_of(pod) for name, pod in pods(platform).items()}
    assert found == {"check": set(), "data": set(), "train": set(), "evaluate": set(),
                     "champion": KEYS["registry"], "release": KEYS["registry"], "final-test": set(),
                     "confirm": KEYS["registry"] | set(BUCKET_KEYS), "finish": KEYS["webhook"]}  # fmt: skip
    assert secrets_of(pods(files["retraining", "auto"][1])["changes"]) == KEYS["registry"]
    found = {name: secrets_of(pod) for name, pod in pods(files["training", "none"][1]).items()}
    for step in TRAINING.steps:
        keys = {key for need in step.secrets for key in SECRET_KEYS[need]}
        assert found[step.name.replace("_", "-")] == keys, step.name
    assert {REGISTRY, STORE} == {need for step in TRAINING.steps for need in step.secrets}


def test_a_pod_is_a_client_of_the_registry_and_the_store_only_with_their_secrets(files):
    """NetworkPolicies go by these labels."""
    for group in ("auto", "none"):
        for name, pod in pods(files["training", group][1]).items():
            labels, keys = pod["podMetadata"]["labels"], secrets_of(pod)
            assert ("mlflow-client" in labels) == ("MLFLOW_TRACKING_TOKEN" in keys), name
    labels = pods(files["training", "none"][1])["deliver"]["podMetadata"]["labels"]
    assert labels["store-client"] == "true" and "mlflow-client" not in labels


@pytest.mark.parametrize("group", ["auto", "none"])
@pytest.mark.parametrize("more", [{}, {"partitions": 2, "workers": 2}, {"tune_trials": 3}], ids=str)
@pytest.mark.parametrize("pipeline", ["training", "retraining"])
def test_no_pod_that_decodes_images_or_loads_a_model_holds_a_secret(tmp_path, pipeline, more, group):
    """Of the tasks that are no steps, `tune` and `train_workers` decode."""
    cluster = ClusterSettings(**IMAGES, **more, group=group)
    _, platform = documents(compiled.compile_to(tmp_path / "p.yaml", pipeline, cluster=cluster))
    with_secrets = {name for name, pod in pods(platform).items() if secrets_of(pod)}
    expected = {"auto": {"champion", "release", "confirm", "finish"},
                "none": {"champion", "register", "confirm", "deliver", "finish"}}[group]  # fmt: skip
    assert with_secrets == expected | ({"changes"} if pipeline == "retraining" else set())
    assert not any(TRAINING.by_name[name].decodes for name in with_secrets & set(TRAINING.by_name))


def test_needs_refuse_secrets_beside_images():
    with pytest.raises(ValueError, match="decodes images may hold no secret"):
        PodNeeds(secrets=(REGISTRY,), decodes=True)


def body_of(container):
    """A component's own source below its signature."""
    (text,) = [part for part in container["command"] + container["args"] if "\ndef " in part]
    function = text[text.index("\ndef ") :]
    return re.split(r"\)(?: -> .*)?:\n", function, maxsplit=1)[1].strip().splitlines()


def test_executors_hold_a_call_and_no_source(files):
    for spec, _ in files.values():
        for name, found in spec["deploymentSpec"]["executors"].items():
            container = found["container"]
            body = [line for line in body_of(container) if line.strip()]
            assert len(body) <= 10, name
            assert any("import" in line and "pergola.pipelines.kubeflow" in line for line in body), name
            assert "pip install" not in json.dumps(container), name


def test_tasks_are_tried_again_where_that_can_help(training, separate):
    run = tasks(separate[0])
    assert run["train"]["retryPolicy"] == {"backoffDuration": "30s", "backoffFactor": 2.0,
                                           "backoffMaxDuration": "600s", "maxRetryCount": 2}  # fmt: skip
    assert "retryPolicy" not in run["gate"] and "retryPolicy" not in run["evaluate"]
    assert all("retryPolicy" in tasks(training[0])[name] for name in ("data", "train", "evaluate", "release"))


def test_parameters_are_one_struct_a_section_with_the_settings_as_defaults(training, separate):
    declared = training[0]["root"]["inputDefinitions"]["parameters"]
    assert declared == separate[0]["root"]["inputDefinitions"]["parameters"]
    assert declared["train"]["defaultValue"]["epochs"] == 3 and declared["gate"]["parameterType"] == "STRUCT"
    assert {"network" if name == "model" else name for name in compiler.SECTIONS} <= set(declared)
    needed = [name for name in declared if "defaultValue" not in declared[name]]
    assert set(needed) == {"model", "dataset"}
    given = submit.checked(
        {"dataset": "/data", "model": "m", "accelerator_count": 1, "train": {"epochs": 9}}, training[0]
    )
    assert given["accelerator_count"] == "1"


def test_a_struct_reaches_only_the_tasks_that_declare_it(separate):
    """So that a changed gate leaves cached training as it is."""
    spec, _ = separate
    found = {**tasks(spec), **tasks(spec, "comp-condition-2")}
    for name, task in found.items():
        if name in ("check", "condition-2"):
            continue
        step = TRAINING.by_name[name.replace("-", "_")]
        sections = {key.partition(".")[0] for key in (*step.settings, *step.reads)}
        given = {key for key in task["inputs"]["parameters"] if key.endswith("settings")} - {"asked_settings"}
        wanted = {"settings"} if "*" in sections else {f"{section}_settings" for section in sections}
        assert given == wanted, name


def test_scan_and_shards_fan_out_and_workers_train_where_the_cluster_says_so(tmp_path):
    cluster = ClusterSettings(**IMAGES, partitions=3, workers=4, train_timeout_s=7200)
    file = compiled.compile_to(tmp_path / "retraining.yaml", "retraining", cluster=cluster)
    spec, platform = documents(file)
    outer, inner = tasks(spec), tasks(spec, "comp-condition-4")
    loops = {
        task["taskInfo"]["name"]: task
        for task in (*outer.values(), *inner.values())
        if "parameterIterator" in task
    }
    assert set(loops) == {"scan-parts", "shards-parts"}
    for loop in loops.values():
        assert loop["parameterIterator"]["items"]["raw"] == "[0, 1, 2]"
    assert outer["merge-scan-parts"]["inputs"]["artifacts"]["parts"]["taskOutputArtifact"][
        "producerTask"
    ].startswith("for-loop")
    assert inner["data"]["inputs"]["artifacts"]["manifest"] and "merge-shards-parts" in inner
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
    pod = pods(platform)["train-workers"]
    known = {entry["name"]: entry["fieldPath"] for entry in pod["fieldPathAsEnv"]}
    assert known["PERGOLA_NAMESPACE"] == "metadata.namespace" and known["PERGOLA_POD_UID"] == "metadata.uid"
    assert pod["activeDeadlineSeconds"] == "7200"


def test_figures_and_pages_are_artifacts_of_the_kinds_that_kubeflow_shows(training):
    spec, _ = training
    found = {name: executor_outputs(spec, name) for name in GROUPS}
    assert found["evaluate"]["metrics"] == "Metrics" and found["evaluate"]["roc"] == "ClassificationMetrics"
    assert found["data"]["data_page"] == found["evaluate"]["report_page"] == "HTML"
    assert found["data"]["findings"] == found["evaluate"]["verdict"] == "Markdown"
    assert found["train"]["export"] == "Model" and found["data"]["shards"] == "Dataset"
    assert {name for name in GROUPS if found[name].get("steps") == "Markdown"} == GROUPS - {"champion"}


def executor_outputs(spec, name):
    outputs = spec["components"][f"comp-{name}"]["outputDefinitions"]["artifacts"]
    return {key: kind["artifactType"]["schemaTitle"].removeprefix("system.") for key, kind in outputs.items()}


def test_compiling_twice_gives_the_same(training, tmp_path):
    settings = load(None, ["train.epochs=3"])
    again = compiled.compile_to(tmp_path / "again.yaml", settings=settings, cluster=CLUSTER)
    assert documents(again) == training


def test_compile_to_refuses(tmp_path):
    with pytest.raises(InputError, match=r"no pipeline 'train'\. Did you mean 'training'"):
        compiled.compile_to(tmp_path / "a.yaml", "train")
    with pytest.raises(InputError, match=r"must end with \.yaml"):
        compiled.compile_to(tmp_path / "a.json")
    with pytest.raises(InputError, match=r"The folder of .* does not exist"):
        compiled.compile_to(tmp_path / "none" / "a.yaml")
