"""An HTTP server that imitates the part of the Kubernetes API that a roll-out uses, and holds state.

It knows its kinds by discovery, checks credentials, content types and, by the published schemas, every
object that is applied. What becomes of a Deployment is scripted: `fate` gives the statuses of its pods.
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

KINDS = {
    "v1": {"Namespace": "namespaces", "ServiceAccount": "serviceaccounts", "ConfigMap": "configmaps",
           "Service": "services", "Pod": "pods", "Secret": "secrets",
           "PersistentVolumeClaim": "persistentvolumeclaims"},
    "apps/v1": {"Deployment": "deployments", "StatefulSet": "statefulsets", "ReplicaSet": "replicasets"},
    "autoscaling/v2": {"HorizontalPodAutoscaler": "horizontalpodautoscalers"},
    "policy/v1": {"PodDisruptionBudget": "poddisruptionbudgets"},
    "networking.k8s.io/v1": {"NetworkPolicy": "networkpolicies"},
    "rbac.authorization.k8s.io/v1": {"Role": "roles", "RoleBinding": "rolebindings"},
    "gateway.networking.k8s.io/v1": {"GRPCRoute": "grpcroutes"},
}  # fmt: skip
TOKEN = "a-good-token"


def running(name: str) -> list[dict[str, Any]]:
    """Pods of a Deployment that comes to run."""
    return [
        {
            "phase": "Running",
            "containerStatuses": [{"name": "server", "ready": True, "state": {"running": {}}}],
        }
    ]


class FakeCluster:
    """State and faults; `url` is where it listens."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str]] = []
        self.fate: Callable[[str], list[dict[str, Any]]] = running
        self.logs = ""
        self.forbidden: set[str] = set()
        self.slow_polls = 1  # reads of a Deployment before it is rolled out
        self._reads: dict[str, int] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> FakeCluster:
        self._thread.start()
        return self

    def kubeconfig(self, path: Path) -> Path:
        """A kubeconfig that names this cluster, written to `path`."""
        cluster = {"name": "fake", "cluster": {"server": self.url}}
        user = {"name": "dev", "user": {"token": TOKEN}}
        context = {"name": "fake", "context": {"cluster": "fake", "user": "dev"}}
        named = {"current-context": "fake", "clusters": [cluster], "users": [user], "contexts": [context]}
        path.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", **named}))
        return path

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, method: str, target: str, kind: str, body: bytes) -> tuple[int, Any]:
        parts = urlsplit(target)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        self.requests.append((method, parts.path))
        if any(word in parts.path for word in self.forbidden):
            return 403, status(403, f'User "dev" cannot {method.lower()} {parts.path}')
        if parts.path.endswith("/log"):
            return 200, self.logs
        version = parts.path.strip("/").removeprefix("apis/").removeprefix("api/")
        if version in KINDS:
            kinds = KINDS[version].items()
            resources = [{"kind": k, "name": plural, "namespaced": k != "Namespace"} for k, plural in kinds]
            return 200, {"resources": resources}
        if method == "PATCH":
            return self._patch(parts.path, query, kind, body)
        if "labelSelector" in query:
            return 200, {"items": self._pods_or_sets(parts.path, query["labelSelector"])}
        if parts.path in self.objects:
            return 200, self._read(parts.path)
        return 404, status(404, f"{parts.path} not found")

    def _patch(self, path: str, query: dict[str, str], kind: str, body: bytes) -> tuple[int, Any]:
        thing = yaml.safe_load(body)
        if kind == "application/merge-patch+json":
            found = self.objects.get(path)
            if found is None:
                return 404, status(404, f"{path} not found")
            if thing["metadata"]["resourceVersion"] != found["metadata"]["resourceVersion"]:
                return 409, status(409, "the object has been modified")
            found["spec"].update(thing["spec"])
            found["metadata"]["resourceVersion"] = str(int(found["metadata"]["resourceVersion"]) + 1)
            return 200, found
        if kind != "application/apply-patch+yaml" or "fieldManager" not in query:
            return 415, status(
                415, f"server-side apply wants its content type and a fieldManager, got {kind}"
            )
        fault = self._fault(path, thing)
        if fault:
            code = 404 if fault.endswith("not found") else 422
            return code, status(code, fault)
        before = self.objects.get(path, {"metadata": {"generation": 0, "resourceVersion": "0"}})
        owner = before["metadata"].get("owner", query["fieldManager"])
        if owner != query["fieldManager"] and query.get("force") != "true":
            return 409, status(409, f'Apply failed with 1 conflict: conflict with "{owner}": .spec.replicas.')
        if "dryRun" not in query:
            made = copy.deepcopy(thing)
            made["metadata"]["generation"] = before["metadata"]["generation"] + 1
            made["metadata"]["resourceVersion"] = str(int(before["metadata"]["resourceVersion"]) + 1)
            made["metadata"]["annotations"] = {
                **made["metadata"].get("annotations", {}), "deployment.kubernetes.io/revision": "1",
            }  # fmt: skip
            self.objects[path] = made
            self._reads[path] = 0
        return 200, thing

    def _fault(self, path: str, thing: dict[str, Any]) -> str:
        namespace = thing["metadata"].get("namespace")
        if namespace and f"/api/v1/namespaces/{namespace}" not in self.objects:
            return f'namespaces "{namespace}" not found'
        if not path.endswith("/" + thing["metadata"]["name"]):
            return f"the name of the object ({thing['metadata']['name']}) does not match {path}"
        if not thing["apiVersion"].startswith("gateway."):
            import kubernetes_validate

            try:
                kubernetes_validate.validate(thing, "1.34", strict=True)
            except kubernetes_validate.ValidationError as error:
                return f"{thing['kind']} is invalid: {error.message}"
        return ""

    def _read(self, path: str) -> dict[str, Any]:
        thing = copy.deepcopy(self.objects[path])
        if thing["kind"] in ("Deployment", "StatefulSet"):
            self._reads[path] += 1
            pods = self.fate(thing["metadata"]["name"])
            ready = all(c.get("ready") for pod in pods for c in pod.get("containerStatuses", [{}]))
            wanted = thing["spec"].setdefault("replicas", 1)
            available = wanted if ready and self._reads[path] > self.slow_polls else 0
            thing["status"] = {
                "observedGeneration": thing["metadata"]["generation"], "replicas": wanted,
                "updatedReplicas": wanted, "availableReplicas": available,
            }  # fmt: skip
        return thing

    def _pods_or_sets(self, path: str, selector: str) -> list[dict[str, Any]]:
        wanted = dict(part.split("=", 1) for part in selector.split(","))
        items = []
        for where, thing in self.objects.items():
            alone = thing["kind"] == "Pod" and where.startswith(f"{path}/")
            if alone and wanted.items() <= thing["metadata"]["labels"].items():
                items.append(thing)
            template = thing.get("spec", {}).get("template")
            if thing["kind"] not in ("Deployment", "StatefulSet") or template is None:
                continue
            name = thing["metadata"]["name"]
            labels = {**template["metadata"]["labels"], "pod-template-hash": f"hash-{name}"}
            if not wanted.items() <= labels.items():
                continue
            if path.endswith("/replicasets"):
                revision = {"deployment.kubernetes.io/revision": "1"}
                items.append({"metadata": {"name": f"{name}-1", "labels": labels, "annotations": revision}})
                continue
            for number, status in enumerate(self.fate(name)):
                metadata = {"name": f"{name}-{number}", "namespace": thing["metadata"]["namespace"]}
                items.append({"metadata": {**metadata, "labels": labels}, "status": status})
        return items

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer("GET")

            def do_PATCH(self) -> None:
                self._answer("PATCH")

            def do_POST(self) -> None:
                self._answer("POST")

            def do_DELETE(self) -> None:
                self._answer("DELETE")

            def _answer(self, method: str) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                    code, reply = 401, status(401, "Unauthorized")
                else:
                    code, reply = cluster.answer(
                        method, self.path, self.headers.get("Content-Type", ""), body
                    )
                raw = (reply if isinstance(reply, str) else json.dumps(reply)).encode()
                self.send_response(code)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        return Handler


def status(code: int, message: str) -> dict[str, Any]:
    return {"kind": "Status", "status": "Failure", "code": code, "message": message}
