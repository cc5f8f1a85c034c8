"""Every overlay builds, is valid Kubernetes, and keeps our own rules."""

import copy
import json
import re
import textwrap
from pathlib import PurePosixPath

import pytest

from pergola.k8s.trainjob import CONTAINER, TrainJob
from pergola.pipelines.kubeflow import workers
from pergola.pipelines.kubeflow.cluster import ClusterSettings
from tests.support import manifests
from tests.support.manifests import OVERLAYS, ROOT, build, kustomize, name_of, pods, problems

CUSTOM = {"GRPCRoute", "InferenceService", "ScheduledWorkflow"}  # kinds whose schemas no package carries
VERSION = "1.34"

if kustomize() is None:
    pytest.skip("no kustomize: scripts/kustomize-tools builds one", allow_module_level=True)


@pytest.fixture(scope="module")
def built():
    return {overlay: build(ROOT / "k8s" / "overlays" / overlay) for overlay in OVERLAYS}


def objects_of(built, overlay, kind, name=""):
    return [o for o in built[overlay] if o["kind"] == kind and name in o["metadata"]["name"]]


def test_there_is_every_overlay_that_the_docs_name():
    assert OVERLAYS == ("dev", "gateway", "gpu", "kserve", "production", "tls")


def test_every_object_is_valid_kubernetes(built):
    validate = pytest.importorskip("kubernetes_validate")
    checked = set()
    for overlay, objects in built.items():
        for thing in (o for o in objects if o["kind"] not in CUSTOM):
            key = json.dumps({**thing, "metadata": {**thing["metadata"], "namespace": "x"}}, sort_keys=True)
            if key not in checked:
                checked.add(key)
                try:
                    validate.validate(thing, VERSION, strict=True)
                except validate.ValidationError as error:
                    pytest.fail(f"{overlay}: {name_of(thing)}: {error.message}")
    assert len(checked) > 20


def test_the_validator_finds_a_misspelt_key(built):
    validate = pytest.importorskip("kubernetes_validate")
    thing = copy.deepcopy(_server(built["production"]))
    thing["spec"]["template"]["spec"]["containers"][0]["readinesProbe"] = {}
    with pytest.raises(validate.ValidationError):
        validate.validate(thing, VERSION, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlay_keeps_our_rules(built, overlay):
    assert problems(built[overlay]) == []


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlay_lies_in_one_namespace_and_makes_it(built, overlay):
    (namespace,) = objects_of(built, overlay, "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    for thing in built[overlay]:
        if thing["kind"] != "Namespace":
            assert thing["metadata"]["namespace"] == namespace["metadata"]["name"], name_of(thing)


@pytest.mark.parametrize("overlay", [o for o in OVERLAYS if o != "dev"])
def test_overlay_holds_no_secret(built, overlay):
    assert objects_of(built, overlay, "Secret") == []


def servers(built, overlay):
    found = [p for p in pods(built[overlay]) if p.labels["app.kubernetes.io/name"] == "model-server"]
    assert found
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_model_server_is_the_binary_beside_a_native_sidecar(built, overlay):
    for pod in servers(built, overlay):
        sync, server = pod.spec["initContainers"][0], pod.spec["containers"][0]
        assert (sync["restartPolicy"], sync["command"][:2]) == ("Always", ["pergola", "sync"])
        assert server["command"] == ["tensorflow_model_server"]
        flags = dict(argument.removeprefix("--").split("=", 1) for argument in server["args"])
        assert flags["allow_version_labels_for_unavailable_models"] == "true"
        mounts = {m["name"]: PurePosixPath(m["mountPath"]) for m in server["volumeMounts"]}
        assert PurePosixPath(flags["model_config_file"]).parent == mounts["models"]
        assert PurePosixPath(flags["monitoring_config_file"]).parent == mounts["monitoring"]
        assert int(flags["model_config_file_poll_wait_seconds"]) <= 10


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_model_server_has_time_to_drain(built, overlay):
    for pod in servers(built, overlay):
        server = pod.spec["containers"][0]
        pause = int(server["lifecycle"]["preStop"]["exec"]["command"][1])
        timeout_s = int(next(a for a in server["args"] if "rest_api_timeout_in_ms" in a).split("=")[1]) / 1000
        assert pod.spec["terminationGracePeriodSeconds"] >= pause + timeout_s


def test_tls_hands_the_server_a_file_that_sync_makes(built):
    for pod in servers(built, "tls"):
        sync, server = pod.spec["initContainers"][0], pod.spec["containers"][0]
        assert "--ssl_config_file=/tls/ssl.config" in server["args"]
        assert {"--certificates=/certificates", "--ssl-config=/tls/ssl.config"} <= set(sync["command"])
    (policy,) = objects_of(built, "tls", "NetworkPolicy", "model-server")
    assert policy["spec"]["ingress"][0]["ports"] == [{"port": "grpc"}]


def test_gpu_asks_for_one_and_batches(built):
    for pod in servers(built, "gpu"):
        server = pod.spec["containers"][0]
        assert server["resources"]["limits"]["nvidia.com/gpu"] == "1"
        assert server["image"].endswith("-gpu")
        assert "--enable_batching=true" in server["args"]


def test_gpu_batching_file_ends_with_the_largest_batch(built):
    (config,) = objects_of(built, "gpu", "ConfigMap", "batching")
    text = config["data"]["batching.config"]
    (largest,) = re.findall(r"max_batch_size \{ value: (\d+) \}", text)
    assert re.findall(r"allowed_batch_sizes: (\d+)", text)[-1] == largest


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_model_server_is_given_flags_that_it_knows(built, overlay):
    from pergola.serving.server import flags

    for pod in servers(built, overlay):
        arguments = [a.replace("$(CPUS)", "4") for a in pod.spec["containers"][0]["args"]]
        parsed = flags.parse(arguments)
        assert parsed.unknown == ()
        assert parsed.values["rest_api_port"] == 8501


def test_gateway_splits_between_the_two_tracks(built):
    (route,) = objects_of(built, "gateway", "GRPCRoute")
    (rule,) = route["spec"]["rules"]
    assert {b["name"]: b["weight"] for b in rule["backendRefs"]} == {
        "model-server-stable": 100, "model-server-canary": 0,
    }  # fmt: skip
    methods = [match["method"] for match in rule["matches"]]
    assert methods == [
        {"service": "tensorflow.serving.PredictionService"},
        {"service": "tensorflow.serving.ModelService", "method": "GetModelStatus"},  # and no reload
    ]


def test_kserve_runs_our_pod_and_none_of_our_deployments(built):
    (service,) = objects_of(built, "kserve", "InferenceService")
    assert (
        objects_of(built, "kserve", "Deployment")
        == objects_of(built, "kserve", "HorizontalPodAutoscaler")
        == []
    )
    predictor = copy.deepcopy(service["spec"]["predictor"])
    ours = next(p for p in servers(built, "production") if p.labels["track"] == "stable").spec
    assert predictor["containers"][0]["args"] == ours["containers"][0]["args"]
    assert predictor["initContainers"][0]["command"] == ours["initContainers"][0]["command"]
    assert predictor["containers"][0]["name"] == "kserve-container"


def test_pipeline_account_may_do_what_the_steps_do_and_nothing_more(built):
    (role,) = objects_of(built, "dev", "Role")
    assert objects_of(built, "dev", "ClusterRole") == objects_of(built, "dev", "ClusterRoleBinding") == []
    rights = {
        (resource, verb) for rule in role["rules"] for resource in rule["resources"] for verb in rule["verbs"]
    }
    assert not any("*" in right for right in rights)
    assert _changed_by(role) == {"workflowtaskresults"}
    for rule in role["rules"]:
        if {"secrets", "configmaps"} & set(rule["resources"]):
            assert rule["resourceNames"]


def _changed_by(role):
    """What a role may make, change or delete."""
    verbs = {"create", "patch", "update", "delete"}
    return {r for rule in role["rules"] if verbs & set(rule["verbs"]) for r in rule["resources"]}


def test_workers_get_a_runtime_and_the_train_step_the_rights_for_it(tmp_path):
    """The component trainer beside the pipeline's side."""
    objects = build(manifests.with_components(tmp_path, "dev", ["trainer"]))
    assert problems(objects) == []
    (role,) = (o for o in objects if o["kind"] == "Role")
    assert _changed_by(role) == {"workflowtaskresults", "trainjobs"}
    (runtime,) = (o for o in objects if o["kind"] == "TrainingRuntime")
    assert runtime["metadata"]["namespace"] == "pergola"
    asked = TrainJob("t", "pergola", ClusterSettings().runtime, "i", (), 2).manifest()["spec"]
    assert asked["runtimeRef"]["name"] == runtime["metadata"]["name"]
    (node,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    assert node["name"] == CONTAINER and node["template"]["spec"]["backoffLimit"] == 0
    pod = node["template"]["spec"]["template"]["spec"]
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == ClusterSettings().workspace_claim
    (container,) = pod["containers"]
    assert container["ports"][0]["containerPort"] == workers.PORT
    assert container["volumeMounts"][0]["mountPath"] == ClusterSettings().workspace


def test_a_models_name_reaches_the_probes(built, tmp_path):
    relative = "../" * len(tmp_path.parts[1:]) + str(ROOT / "k8s").lstrip("/")
    (tmp_path / "kustomization.yaml").write_text(
        f"resources: [{relative}/base/serving]\n"
        "configMapGenerator: [{name: model, behavior: merge, literals: [name=flowers]}]\n"
        f"transformers: [{relative}/components/model]\n"
    )
    for pod in pods(build(tmp_path)):
        for probe in ("startupProbe", "readinessProbe"):
            assert pod.spec["containers"][0][probe]["httpGet"]["path"] == "/v1/models/flowers/metadata"


def page_block(first):
    """The indented block of docs/kubernetes.md that begins with a line, its paths from here."""
    page = (ROOT / "docs" / "kubernetes.md").read_text()
    begin = page.index(first) - len(re.search(r" *\Z", page[: page.index(first)]).group())
    indent = re.match(" +", page[begin:]).group()
    text = textwrap.dedent(re.match(rf"(?:{indent}[^\n]*\n|\n)+", page[begin:]).group())
    return text.replace("../k8s/", f"{ROOT}/k8s/")


def test_the_overlays_of_the_docs_build(tmp_path):
    for name in ("our-cluster", "our-pipeline"):
        folder = tmp_path / name
        folder.mkdir()
        text = page_block(f"# {name}/kustomization.yaml").replace("# components:", "components:")
        text = text.replace("name=leaves", "name=flowers")  # another than production's
        up = "../" * len(folder.parts[1:]) + str(ROOT).lstrip("/")
        (folder / "kustomization.yaml").write_text(text.replace(str(ROOT), up))
    ours, pipeline = build(tmp_path / "our-cluster"), build(tmp_path / "our-pipeline")
    assert problems(ours) == problems(pipeline) == []
    server = _container(ours)
    assert server["readinessProbe"]["httpGet"]["path"] == "/v1/models/flowers/metadata"
    images = {c["image"] for pod in pods(ours) for c in pod.containers if "pergola" in c["image"]}
    assert images == {
        "registry.our-company.com/pergola:0.2.0-sync",
        "registry.our-company.com/pergola:0.2.0-cpu",
    }
    (model,) = (o for o in ours if o["kind"] == "ConfigMap" and o["metadata"]["name"].startswith("model-"))
    (settings,) = (o for o in pipeline if name_of(o) == "ConfigMap/pipeline")
    assert settings["data"]["PERGOLA_STORE"] == model["data"]["store"] == "s3://our-models/pergola"
    assert any(o["kind"] == "TrainingRuntime" and o["metadata"]["namespace"] == "kubeflow" for o in pipeline)


def test_components_add_up(tmp_path):
    relative = "../" * len(tmp_path.parts[1:]) + str(ROOT / "k8s").lstrip("/")
    components = ", ".join(f"{relative}/components/{name}" for name in ("gpu", "tls", "gateway", "volume"))
    (tmp_path / "kustomization.yaml").write_text(
        f"namespace: pergola\nresources: [{relative}/overlays/production]\ncomponents: [{components}]\n"
    )
    objects = build(tmp_path)
    assert problems(objects) == []
    for pod in (p for p in pods(objects) if p.labels["app.kubernetes.io/name"] == "model-server"):
        sync, server = pod.spec["initContainers"][0], pod.spec["containers"][0]
        assert {"/store", "/certificates"} <= {m["mountPath"] for m in sync["volumeMounts"]}
        assert {"--enable_batching=true", "--ssl_config_file=/tls/ssl.config"} <= set(server["args"])


def test_a_changed_setting_rolls_the_pods(tmp_path):
    relative = "../" * len(tmp_path.parts[1:]) + str(ROOT / "k8s").lstrip("/")
    seen = set()
    for store in ("s3://a/b", "s3://a/c"):
        (tmp_path / "kustomization.yaml").write_text(
            f"resources: [{relative}/base/serving]\n"
            f"configMapGenerator: [{{name: model, behavior: merge, literals: ['store={store}']}}]\n"
        )
        pod = next(pods(build(tmp_path)))
        seen.add(pod.spec["initContainers"][0]["env"][0]["valueFrom"]["configMapKeyRef"]["name"])
    assert len(seen) == 2


def _server(objects):
    return next(o for o in objects if name_of(o) == "Deployment/model-server-stable")


def _container(objects):
    return _server(objects)["spec"]["template"]["spec"]["containers"][0]


def _monitoring(objects):
    return next(o for o in objects if o["kind"] == "ConfigMap" and "monitoring" in o["metadata"]["name"])


def _annotations(objects):
    return _server(objects)["spec"]["template"]["metadata"]["annotations"]


def _autoscaler(objects):
    return next(o for o in objects if o["kind"] == "HorizontalPodAutoscaler")


def _service(objects):
    return next(o for o in objects if name_of(o) == "Service/model-server")


FAULTS = {
    "no limits": (lambda o: _container(o)["resources"].pop("limits"), "has no limits of cpu, memory"),
    "no probe": (lambda o: _container(o).pop("readinessProbe"), "server has no readinessProbe"),
    "root": (lambda o: _server(o)["spec"]["template"]["spec"].pop("securityContext"), "runs as root"),
    "writable": (
        lambda o: _container(o)["securityContext"].update(readOnlyRootFilesystem=False),
        "can write its root file system",
    ),
    "rights": (
        lambda o: _container(o)["securityContext"].update(capabilities={"add": ["NET_ADMIN"]}),
        "keeps rights",
    ),
    "latest": (lambda o: _container(o).update(image="tensorflow/serving:latest"), "not pinned"),
    "no tag": (lambda o: _container(o).update(image="registry:5000/tensorflow/serving"), "not pinned"),
    "label": (lambda o: _server(o)["metadata"]["labels"].pop("app.kubernetes.io/part-of"), "lacks the label"),
    "selector": (
        lambda o: _server(o)["spec"]["template"]["metadata"]["labels"].update(track="other"),
        "does not match its own pods",
    ),
    "greedy selector": (
        lambda o: _server(o)["spec"]["selector"]["matchLabels"].pop("track"),
        "matches the pods of another workload",
    ),
    "service": (lambda o: _service(o)["spec"].update(selector={"app": "x"}), "selects no pod"),
    "port": (lambda o: _service(o)["spec"]["ports"][0].update(targetPort="x"), "has no port x"),
    "config map": (
        lambda o: o.remove(_monitoring(o)),
        "which does not exist",
    ),
    "volume": (lambda o: _container(o)["volumeMounts"][0].update(name="x"), "which is no volume of the pod"),
    "probe port": (
        lambda o: _container(o)["readinessProbe"]["httpGet"].update(port="x"),
        "probes port x",
    ),
    "replicas": (lambda o: _server(o)["spec"].update(replicas=2), "fights with its autoscaler"),
    "container": (
        lambda o: _autoscaler(o)["spec"]["metrics"][0]["containerResource"].update(container="x"),
        "looks at x, which Deployment/model-server-stable does not run",
    ),
    "boolean": (
        lambda o: _annotations(o).update({"prometheus.io/scrape": True}),
        "which is no text",
    ),
    "token": (
        lambda o: _server(o)["spec"]["template"]["spec"].update(automountServiceAccountToken=True),
        "mounts a token",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_our_rules_find_a_planted_fault(built, fault):
    plant, message = FAULTS[fault]
    objects = copy.deepcopy(built["production"])
    plant(objects)
    assert any(message in text for text in problems(objects)), problems(objects)


def test_rules_want_a_status_of_a_scheduled_workflow():
    schedule = {
        "kind": "ScheduledWorkflow",
        "metadata": {"name": "retrain", "labels": dict.fromkeys(manifests.LABELS, "x")},
        "spec": {},
    }
    assert problems([schedule]) == ["ScheduledWorkflow/retrain: no status"]
    assert problems([{**schedule, "status": {}}]) == []
