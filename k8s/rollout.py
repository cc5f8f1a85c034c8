"""Apply manifests to a cluster and wait for the rollout. EDGE: the only importer of `kubernetes`.

    cluster = Cluster.connect()
    objects = manifests.build(Path("k8s/overlays/dev"))
    cluster.apply(objects)
    cluster.wait(objects, timeout_s=600)

Objects are applied server-side, so that fields which others own (an autoscaler's replicas) stay theirs. A
rollout that cannot succeed fails at once, with the reason taken from its pods. docs/decisions/0050 says why
this polls instead of calling kubectl or opening a watch.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pergola.k8s import pods
from pergola.k8s.manifests import Object, name_of
from pergola.k8s.pods import RolloutProgress

MANAGER = "pergola"
_TIMEOUT = (5, 30)  # seconds to connect, to answer


class RolloutError(RuntimeError):
    """The cluster refused a request, or a rollout failed."""


class NotConfigured(RolloutError):
    """No cluster is configured."""


class Missing(RolloutError):
    """The object does not exist on the server."""


class Conflict(RolloutError):
    """The object exists already, or another manager owns the field."""


class Cluster:
    """A client of one cluster."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._kinds: dict[str, dict[str, tuple[str, bool]]] = {}

    @classmethod
    def connect(cls, kubeconfig: str | None = None, context: str | None = None) -> Cluster:
        """The cluster of the kubeconfig, as for `kubectl`; without one, the cluster that this pod runs in.

        Raises NotConfigured when there is neither.
        """
        from kubernetes import client, config

        configuration = client.Configuration()
        named = kubeconfig or os.environ.get("KUBECONFIG")
        try:
            if named or context or Path("~/.kube/config").expanduser().exists():
                config.load_kube_config(named, context, client_configuration=configuration)
            else:
                config.load_incluster_config(client_configuration=configuration)
        except (config.ConfigException, OSError) as error:
            text = str(error).rstrip(".")
            raise NotConfigured(f"No cluster is configured: {text}. Set KUBECONFIG or --context.") from None
        return cls(client.ApiClient(configuration))

    def apply(self, objects: Iterable[Object], *, dry_run: bool = False, force: bool = False) -> list[str]:
        """Apply objects in this order; returns their names.

        dry_run: the server validates everything and stores nothing.
        force: take over fields that another manager owns.
        """
        return [self._apply(thing, dry_run, force) for thing in objects]

    def wait(
        self,
        objects: Iterable[Object],
        timeout_s: float = 600,
        on_progress: Callable[[RolloutProgress], None] = lambda progress: None,
        poll_s: float = 2,
    ) -> None:
        """Return when every Deployment and StatefulSet has rolled out.

        Raises RolloutError with the reason of the first that fails, or of the first not ready by the timeout.
        """
        waiting = [thing for thing in objects if thing["kind"] in ("Deployment", "StatefulSet")]
        deadline = time.monotonic() + timeout_s
        while waiting:
            late = time.monotonic() >= deadline
            waiting = [thing for thing in waiting if not self._is_done(thing, late, on_progress)]
            if late and waiting:
                names = ", ".join(name_of(thing) for thing in waiting)
                raise RolloutError(f"{names} was not ready within {timeout_s:.0f} s; no pod gives a reason.")
            if waiting:
                time.sleep(poll_s)

    def set_share(self, namespace: str, route: str, share: float) -> None:
        """Route `share` (0 to 1) of a GRPCRoute's requests to its backend …-canary, the rest to …-stable."""
        where = f"/apis/gateway.networking.k8s.io/v1/namespaces/{namespace}/grpcroutes/{route}"
        found = self.call("GET", where)
        rules = found["spec"]["rules"]
        weights = {"canary": round(share * 1000), "stable": 1000 - round(share * 1000)}
        for backend in (b for rule in rules for b in rule.get("backendRefs", [])):
            track = backend["name"].rsplit("-", 1)[-1]
            if track not in weights:
                raise RolloutError(f"GRPCRoute/{route}: {backend['name']} is neither …-stable nor …-canary.")
            backend["weight"] = weights[track]
        version = found["metadata"]["resourceVersion"]
        body = {"metadata": {"resourceVersion": version}, "spec": {"rules": rules}}
        self.call("PATCH", where, body, kind="application/merge-patch+json")

    def address(self, thing: Object) -> str:
        """API path of an object. Raises RolloutError when the cluster does not have its kind."""
        version, kind = thing["apiVersion"], thing["kind"]
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        if version not in self._kinds:
            self._kinds[version] = self._discover(root)
        if kind not in self._kinds[version]:
            raise RolloutError(f"the cluster knows no {kind} of {version}. Install its CRD, or leave it out.")
        plural, namespaced = self._kinds[version][kind]
        if not namespaced:
            return f"{root}/{plural}/{thing['metadata']['name']}"
        namespace = thing["metadata"].get("namespace", "default")
        return f"{root}/namespaces/{namespace}/{plural}/{thing['metadata']['name']}"

    def _apply(self, thing: Object, dry_run: bool, force: bool) -> str:
        query = [("fieldManager", MANAGER), ("force", str(force).lower())]
        query += [("dryRun", "All")] if dry_run else []
        try:
            where = self.address(thing)
            self.call("PATCH", where, thing, query=query, kind="application/apply-patch+yaml")
        except RolloutError as error:
            hint = ""
            if isinstance(error, Missing) and "namespaces " in str(error):
                namespace = thing["metadata"].get("namespace", "default")
                hint = f". A dry run creates none: kubectl create namespace {namespace}" if dry_run else ""
            raise RolloutError(f"{name_of(thing)}: {error}{hint}") from None
        return name_of(thing)

    def _is_done(self, thing: Object, late: bool, on_progress: Callable[[RolloutProgress], None]) -> bool:
        now = self.call("GET", self.address(thing))
        progress = pods.progress_of(now)
        on_progress(progress)
        if progress.done:
            return True
        trouble = self._trouble(now, late)
        if trouble:
            raise RolloutError(f"{progress.name}: {trouble}")
        return False

    def _trouble(self, workload: Object, late: bool) -> str:
        """Why a rollout fails, from its newest pods and its conditions; empty while it may still succeed."""
        for pod in self._newest_pods(workload):
            text = pods.trouble(pod, late)
            if text:
                return text + self._log_tail(pod)
        for condition in workload.get("status", {}).get("conditions", []):
            if condition["type"] == "Progressing" and condition.get("reason") == "ProgressDeadlineExceeded":
                return str(condition.get("message", "no progress within its deadline"))
            if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
                return str(condition.get("message", "its pods cannot be created"))
        return ""

    def _newest_pods(self, workload: Object) -> list[Object]:
        namespace = workload["metadata"]["namespace"]
        selector = dict(workload["spec"]["selector"]["matchLabels"])
        if workload["kind"] == "Deployment":
            revision = workload["metadata"].get("annotations", {}).get("deployment.kubernetes.io/revision")
            sets = self.items(f"/apis/apps/v1/namespaces/{namespace}/replicasets", selector)
            newest = [
                s
                for s in sets
                if s["metadata"].get("annotations", {}).get("deployment.kubernetes.io/revision") == revision
            ]
            if not newest:
                return []
            selector["pod-template-hash"] = newest[0]["metadata"]["labels"]["pod-template-hash"]
        elif workload.get("status", {}).get("updateRevision"):
            selector["controller-revision-hash"] = workload["status"]["updateRevision"]
        return self.items(f"/api/v1/namespaces/{namespace}/pods", selector)

    def items(self, where: str, selector: dict[str, str]) -> list[Object]:
        """The objects of a collection with these labels."""
        query = [("labelSelector", ",".join(f"{key}={value}" for key, value in selector.items()))]
        items: list[Object] = self.call("GET", where, query=query).get("items", [])
        return items

    def _log_tail(self, pod: Object) -> str:
        """The last lines of the log of a container that crashed."""
        container = pods.crashed_container(pod)
        if not container:
            return ""
        where = f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}/log"
        query = [("container", container), ("previous", "true"), ("tailLines", "5")]
        try:
            text = self.call("GET", where, query=query, plain=True)
        except RolloutError:
            return ""
        return f" Its last lines: {text.strip()}" if text.strip() else ""

    def _discover(self, root: str) -> dict[str, tuple[str, bool]]:
        try:
            found = self.call("GET", root)
        except Missing:
            return {}
        return {r["kind"]: (r["name"], r["namespaced"]) for r in found["resources"] if "/" not in r["name"]}

    def call(
        self,
        method: str,
        where: str,
        body: Object | None = None,
        *,
        query: list[tuple[str, str]] | None = None,
        kind: str = "application/json",
        plain: bool = False,
    ) -> Any:
        """The server's response to one request: parsed JSON, or text if `plain`.

        where: the path.  kind: content type of the body.
        Raises Missing, Conflict, or RolloutError with the server's reason.
        """
        import urllib3
        from kubernetes.client import ApiException

        headers = {"Accept": "*/*" if plain else "application/json", "Content-Type": kind}
        try:
            reply = self._client.call_api(
                where, method, {}, query or [], headers,
                body=dict(body) if body is not None else None, auth_settings=["BearerToken"],
                _preload_content=False, _return_http_data_only=True, _request_timeout=_TIMEOUT,
            )  # fmt: skip
        except ApiException as error:
            raise _refusal(error) from None
        except (urllib3.exceptions.HTTPError, OSError) as error:
            host = self._client.configuration.host
            reason = re.sub(r"^\w+\(.*?\): ", "", str(getattr(error, "reason", None) or error)).rstrip(".")
            raise RolloutError(f"no cluster answers at {host}: {reason}. Is it the right context?") from None
        text = reply.data.decode("utf-8", errors="replace")
        return text if plain else json.loads(text)


def _refusal(error: Any) -> RolloutError:
    try:
        message = str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        body = (
            error.body.decode("utf-8", "replace") if isinstance(error.body, bytes) else str(error.body or "")
        )
        message = body.strip()[:300] or str(error.reason or "no reason given")
    if error.status == 401:
        return RolloutError(f"the cluster does not accept these credentials ({message}). Log in again.")
    if error.status == 403 and " cannot " in message:
        return RolloutError(f"not allowed: {message}. Ask for this right, or use another account.")
    if error.status == 403:  # a policy of the cluster, for every account: Pod Security, a quota, a webhook
        return RolloutError(f"refused: {message}")
    if error.status == 404:
        return Missing(f"not found: {message}")
    if error.status == 409:
        return Conflict(f"conflict: {message} To take over these fields: --force.")
    return RolloutError(message)
