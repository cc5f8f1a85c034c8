"""Overlays built with kustomize, and the rules that every object of them has to keep."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = tuple(sorted(path.name for path in (ROOT / "k8s" / "overlays").iterdir() if path.is_dir()))
LABELS = ("app.kubernetes.io/name", "app.kubernetes.io/part-of", "app.kubernetes.io/managed-by")
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job")
OUTSIDE = {  # Secrets that an overlay expects, and where that is said
    "mlflow-database", "model-server-tls",
}  # fmt: skip
OF_OTHERS = {  # policies about pods that Kubeflow or an operator makes
    "NetworkPolicy/pergola-steps", "NetworkPolicy/model-client",
}  # fmt: skip

Object = dict[str, Any]


def kustomize() -> list[str] | None:
    """The command that builds, or None when there is none."""
    for name, arguments in (("kustomize", ["build"]), ("kubectl", ["kustomize"])):
        found = shutil.which(name, path=str(ROOT / ".tools")) or shutil.which(name)
        if found:
            return [found, *arguments]
    return None


def build(folder: Path) -> list[Object]:
    """The objects of a kustomization."""
    command = kustomize()
    assert command is not None
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def with_components(folder: Path, overlay: str, components: list[str]) -> Path:
    """`folder`, made an overlay of ours with these components besides."""
    ours = "../" * len(folder.parts[1:]) + str(ROOT / "k8s").lstrip("/")
    added = [f"{ours}/components/{name}" for name in components]
    text = {"namespace": "pergola", "resources": [f"{ours}/overlays/{overlay}"], "components": added}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(text))
    return folder


@dataclass(frozen=True)
class Pod:
    """A pod's description wherever it lies: in a Deployment, a StatefulSet, an InferenceService."""

    owner: str
    labels: dict[str, str]
    spec: Object
    ends: bool = False  # it works and is done; nobody asks it anything

    @property
    def containers(self) -> list[Object]:
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]

    @property
    def long_running(self) -> list[Object]:
        if self.ends:
            return []
        sidecars = [c for c in self.spec.get("initContainers", []) if c.get("restartPolicy") == "Always"]
        return [*sidecars, *self.spec["containers"]]


def name_of(thing: Object) -> str:
    return f"{thing['kind']}/{thing['metadata']['name']}"


def pods(objects: list[Object]) -> Iterator[Pod]:
    for thing in objects:
        if thing["kind"] in WORKLOADS:
            template = thing["spec"]["template"]
            yield Pod(name_of(thing), template["metadata"]["labels"], template["spec"])
        elif thing["kind"] == "InferenceService":  # its labels are handed on to its pods
            yield Pod(name_of(thing), thing["metadata"]["labels"], thing["spec"]["predictor"])
        elif thing["kind"] == "TrainingRuntime":
            for job in thing["spec"]["template"]["spec"]["replicatedJobs"]:
                template = job["template"]["spec"]["template"]
                yield Pod(name_of(thing), template["metadata"]["labels"], template["spec"], ends=True)


def problems(objects: list[Object]) -> list[str]:
    """Every breach of our rules, a sentence each; none for good manifests."""
    found: list[str] = []
    for pod in pods(objects):
        found += [f"{pod.owner}: {text}" for text in _pod_problems(pod)]
        found += [f"{pod.owner}: {text}" for text in _reference_problems(pod, objects)]
    found += _label_problems(objects)
    found += _selector_problems(objects)
    found += _route_problems(objects)
    found += _truth_problems(objects)
    found += [
        f"{name_of(o)}: no status" for o in objects if o["kind"] == "ScheduledWorkflow" and "status" not in o
    ]
    return found


def _pod_problems(pod: Pod) -> Iterator[str]:
    security = pod.spec.get("securityContext", {})
    if not security.get("runAsNonRoot") or not security.get("runAsUser"):
        yield "runs as root"
    if security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
        yield "has no seccomp profile"
    if pod.spec.get("automountServiceAccountToken") is not False:
        yield "mounts a token of the cluster"
    for container in pod.containers:
        name = container["name"]
        for kind in ("requests", "limits"):
            missing = {"cpu", "memory"} - set(container.get("resources", {}).get(kind, {}))
            if missing:
                yield f"{name} has no {kind} of {', '.join(sorted(missing))}"
        rights = container.get("securityContext", {})
        if not rights.get("readOnlyRootFilesystem"):
            yield f"{name} can write its root file system"
        if rights.get("allowPrivilegeEscalation") is not False or rights.get("capabilities") != {
            "drop": ["ALL"]
        }:
            yield f"{name} keeps rights that the restricted level takes away"
        if not re.fullmatch(r"[^:@]+(:\d+)?[^:@]*:v?\d[\w.-]*(@sha256:[0-9a-f]{64})?", container["image"]):
            yield f"{name} uses the image {container['image']}, which is not pinned"
    for container in pod.long_running:
        for probe in ("readinessProbe", "livenessProbe"):
            if probe not in container:
                yield f"{container['name']} has no {probe}"


def _reference_problems(pod: Pod, objects: list[Object]) -> Iterator[str]:
    names = {(o["kind"], o["metadata"]["name"]) for o in objects}
    volumes = {volume["name"] for volume in pod.spec.get("volumes", [])}
    volumes |= claimed(pod, objects)
    for kind, name in _references(pod):
        if (kind, name) not in names and not (kind == "Secret" and name in OUTSIDE):
            yield f"refers to {kind}/{name}, which does not exist"
    account = pod.spec.get("serviceAccountName")
    if account and ("ServiceAccount", account) not in names:
        yield f"refers to ServiceAccount/{account}, which does not exist"
    for container in pod.containers:
        for mount in container.get("volumeMounts", []):
            if mount["name"] not in volumes:
                yield f"{container['name']} mounts {mount['name']}, which is no volume of the pod"
        ports = {port["name"] for port in container.get("ports", [])}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            for action in ("httpGet", "tcpSocket"):
                port = container.get(probe, {}).get(action, {}).get("port")
                if isinstance(port, str) and port not in ports:
                    yield f"{container['name']} probes port {port}, which it does not have"


def claimed(pod: Pod, objects: list[Object]) -> set[str]:
    """Volumes that the pod's owner makes for it."""
    owner = next(o for o in objects if name_of(o) == pod.owner)
    return {claim["metadata"]["name"] for claim in owner["spec"].get("volumeClaimTemplates", [])}


def _references(pod: Pod) -> Iterator[tuple[str, str]]:
    for volume in pod.spec.get("volumes", []):
        if "configMap" in volume:
            yield "ConfigMap", volume["configMap"]["name"]
        if "secret" in volume:
            yield "Secret", volume["secret"]["secretName"]
        if "persistentVolumeClaim" in volume:
            yield "PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]
    for container in pod.containers:
        sources = [env.get("valueFrom", {}) for env in container.get("env", [])] + container.get(
            "envFrom", []
        )
        for source in sources:
            for key, kind in (
                ("configMapKeyRef", "ConfigMap"), ("configMapRef", "ConfigMap"),
                ("secretKeyRef", "Secret"), ("secretRef", "Secret"),
            ):  # fmt: skip
                if key in source and not source[key].get("optional"):
                    yield kind, source[key]["name"]


def _label_problems(objects: list[Object]) -> list[str]:
    return [
        f"{name_of(o)}: lacks the label {label}"
        for o in objects
        for label in LABELS
        if label not in o["metadata"].get("labels", {}) and o["kind"] not in ("ConfigMap", "Secret")
    ]


def _selector_problems(objects: list[Object]) -> Iterator[str]:
    everywhere = list(pods(objects))
    for thing in objects:
        spec = thing.get("spec", {})
        if thing["kind"] in WORKLOADS:
            template = spec["template"]["metadata"]["labels"]
            if not _selects(spec["selector"]["matchLabels"], template):
                yield f"{name_of(thing)}: its selector does not match its own pods"
            others = [p for p in everywhere if p.owner != name_of(thing)]
            if any(_selects(spec["selector"]["matchLabels"], p.labels) for p in others):
                yield f"{name_of(thing)}: its selector matches the pods of another workload"
        if thing["kind"] == "Service":
            yield from _service_problems(
                thing, [p for p in everywhere if _selects(spec["selector"], p.labels)]
            )
        if thing["kind"] in ("PodDisruptionBudget", "NetworkPolicy") and name_of(thing) not in OF_OTHERS:
            selector = (spec.get("selector") or spec.get("podSelector", {})).get("matchLabels", {})
            if not any(_selects(selector, p.labels) for p in everywhere):
                yield f"{name_of(thing)}: selects no pod"
        if thing["kind"] == "HorizontalPodAutoscaler":
            target = f"{spec['scaleTargetRef']['kind']}/{spec['scaleTargetRef']['name']}"
            owner = next((o for o in objects if name_of(o) == target), None)
            if owner is None:
                yield f"{name_of(thing)}: scales {target}, which does not exist"
            elif "replicas" in owner["spec"]:
                yield f"{target}: has a number of replicas, which fights with its autoscaler"
            for metric in spec["metrics"]:
                container = metric.get("containerResource", {}).get("container")
                running = [c["name"] for p in everywhere if p.owner == target for c in p.long_running]
                if container and container not in running:
                    yield f"{name_of(thing)}: looks at {container}, which {target} does not run"


def _service_problems(service: Object, selected: list[Pod]) -> Iterator[str]:
    if not selected:
        yield f"{name_of(service)}: selects no pod"
    for pod in selected:
        ports = {port["name"] for c in pod.long_running for port in c.get("ports", [])}
        for port in service["spec"]["ports"]:
            if port["targetPort"] not in ports:
                yield f"{name_of(service)}: {pod.owner} has no port {port['targetPort']}"


def _route_problems(objects: list[Object]) -> Iterator[str]:
    services = {o["metadata"]["name"]: o for o in objects if o["kind"] == "Service"}
    for route in (o for o in objects if o["kind"] == "GRPCRoute"):
        for backend in (b for rule in route["spec"]["rules"] for b in rule["backendRefs"]):
            ports = [
                port["port"]
                for port in services.get(backend["name"], {"spec": {"ports": []}})["spec"]["ports"]
            ]
            if backend["port"] not in ports:
                yield f"{name_of(route)}: there is no {backend['name']}:{backend['port']}"


def _truth_problems(objects: list[Object]) -> Iterator[str]:
    """Labels, annotations and ConfigMaps hold texts: an unquoted true is refused by the server."""
    for thing in objects:
        places = [thing["metadata"].get("labels"), thing["metadata"].get("annotations")]
        template = thing.get("spec", {}).get("template", {}).get("metadata", {}) if "spec" in thing else {}
        places += [template.get("labels"), template.get("annotations")]
        if thing["kind"] in ("ConfigMap", "Secret"):
            places.append(thing.get("data"))
        for place in places:
            for key, value in (place or {}).items():
                if not isinstance(value, str):
                    yield f"{name_of(thing)}: {key} is {value!r}, which is no text"


def _selects(selector: dict[str, str], labels: dict[str, str]) -> bool:
    return selector.items() <= labels.items()
