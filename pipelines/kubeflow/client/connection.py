"""The connection to a Kubeflow Pipelines server: address, credentials, and its errors in one sentence.

The client is kfp's own; only its health check is ours, because that of kfp 2.17 retries five times
over 25 seconds and logs five tracebacks when a token has expired.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pergola.components.errors import InputError, PergolaError, StepError
from pergola.components.records import nearest

T = TypeVar("T")

HOST_VARIABLE = "KF_PIPELINES_ENDPOINT"
TOKEN_VARIABLE = "PERGOLA_KFP_TOKEN"
COOKIE_VARIABLE = "PERGOLA_KFP_COOKIE"
TIMEOUT_S = (5, 30)  # connect, read
PAGE = 100

_TOO_OLD = (
    " It is older than 2.16. Update it, or write `security_context = false` in the cluster's settings: "
    "then nothing keeps pods from running as root."
)
_IN_CLUSTER = "http://ml-pipeline.{}.svc.cluster.local:8888"
_POD_TOKEN = Path("/var/run/secrets/kubeflow/pipelines/token")


@dataclass(frozen=True)
class KubeflowConnection:
    """How to reach Kubeflow Pipelines.

    host: http(s)://…, otherwise $KF_PIPELINES_ENDPOINT, otherwise the server of this cluster (in a
    pod), otherwise the one in the kubeconfig's current context.
    namespace: the profile on a multi-user Kubeflow; None on a single-user one.
    token, token_file, cookie: at most one; otherwise $PERGOLA_KFP_TOKEN or $PERGOLA_KFP_COOKIE,
    otherwise the pod's projected token or the kubeconfig's credentials.
    """

    host: str | None = None
    namespace: str | None = None
    token: str | None = None
    token_file: Path | None = None
    cookie: str | None = None
    ca_file: Path | None = None
    pipelines_namespace: str = "kubeflow"  # where Kubeflow Pipelines itself runs

    def address(self) -> str | None:
        """The server's address; None when it comes from the kubeconfig. Raises InputError without either."""
        host = self.host or os.environ.get(HOST_VARIABLE)
        if host:
            if not re.match(r"https?://[^/\s]+", host):
                raise InputError(
                    f"Host '{host}' is not an address. Expected http://… or https://…, with the port."
                )
            return host.rstrip("/")
        if os.environ.get("KUBERNETES_SERVICE_HOST"):
            return _IN_CLUSTER.format(self.pipelines_namespace)
        if _kubeconfig().is_file():
            return None
        raise InputError(
            "No Kubeflow Pipelines server is named. Give --host (for example http://localhost:8080 after "
            "`kubectl port-forward -n kubeflow svc/ml-pipeline-ui 8080:80`), or set "
            f"{HOST_VARIABLE}, or configure a kubeconfig."
        )

    def secret(self) -> str | None:
        """The bearer token to send, if any. Raises InputError when its file cannot be read."""
        file = self.token_file
        if self.token or (file is None and os.environ.get(TOKEN_VARIABLE)):
            return (self.token or os.environ[TOKEN_VARIABLE]).strip()
        if file is None and os.environ.get("KUBERNETES_SERVICE_HOST") and _POD_TOKEN.is_file():
            file = _POD_TOKEN
        if file is None:
            return None
        try:
            return file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise InputError(f"Token file {file} cannot be read: {error.strerror}.") from None


def connect(connection: KubeflowConnection) -> Any:
    """A kfp.Client for a server that answers and accepts the credentials.

    Raises InputError for no host, a host that is unreachable or not Kubeflow Pipelines, a token that is
    missing, wrong or expired, and for a multi-user Kubeflow without a namespace.
    """
    if connection.ca_file and not connection.ca_file.is_file():
        raise InputError(f"CA file {connection.ca_file} does not exist.")
    address, token = connection.address(), connection.secret()
    cookie = connection.cookie or os.environ.get(COOKIE_VARIABLE)
    where = address or "the cluster of the kubeconfig"
    with explain(where), _quiet():
        client = _client_class()(
            host=address,
            namespace=connection.pipelines_namespace
            if address is None
            else connection.namespace or "kubeflow",
            existing_token=token,
            cookies=cookie,
            ssl_ca_cert=str(connection.ca_file) if connection.ca_file else None,
        )
        health = client.get_kfp_healthz()
    if health.multi_user and not (connection.namespace or client.get_user_namespace()):
        raise InputError(f"Kubeflow at {where} is multi-user. Give your profile with --namespace.")
    return client


@contextmanager
def explain(where: str, doing: str = "") -> Iterator[None]:
    """Turn what the SDK raises into one sentence.

    where: the server.  doing: the request, such as "to create a run".
    """
    import kfp_server_api
    import urllib3

    try:
        yield
    except PergolaError:
        raise
    except kfp_server_api.ApiException as error:
        raise _of_status(error, where, doing) from None
    except urllib3.exceptions.HTTPError as error:
        raise InputError(
            f"No answer from {where}: {_root(error)}. Check --host and that it is reachable."
        ) from None


def quietly(call: Callable[[], T]) -> T:
    """The result of an SDK call, without the links and warnings that it prints."""
    with _quiet():
        return call()


def pages(list_page: Callable[..., Any], field: str, **arguments: Any) -> Iterator[Any]:
    """All items of a list call, page by page. field: "runs", "recurring_runs", …"""
    token = ""
    while True:
        answer = list_page(page_token=token, page_size=PAGE, **arguments)
        yield from getattr(answer, field) or ()
        token = answer.next_page_token
        if not token:
            return


def named(name: str) -> str:
    """The filter of a list call for one display name.

    The API decodes it twice, as part of the address and as "url-encoded JSON", and kfp encodes once.
    """
    text = name.replace("%", "%25").replace("+", "%2B")
    equals = {"operation": "EQUALS", "key": "display_name", "string_value": text}
    return json.dumps({"predicates": [equals]})


def experiment_id(client: Any, connection: KubeflowConnection, name: str, *, create: bool = False) -> str:
    """The id of an experiment. Raises InputError when it does not exist, unless `create`."""
    found = list(
        pages(client.list_experiments, "experiments", namespace=connection.namespace, filter=named(name))
    )
    if found:
        return str(found[0].experiment_id)
    if not create:
        others = pages(client.list_experiments, "experiments", namespace=connection.namespace)
        names = [experiment.display_name for experiment in others]
        raise InputError(
            f"There is no experiment '{name}'.{nearest(name, names)} "
            "`pergola submit --create-experiment` creates it."
        )
    made = quietly(lambda: client.create_experiment(name=name, namespace=connection.namespace))
    return str(made.experiment_id)


def pipeline_version(
    client: Any, connection: KubeflowConnection, name: str, version: str | None
) -> tuple[str, str]:
    """Ids of an uploaded pipeline and its version, the newest unless named. Raises InputError."""
    listing = {"namespace": connection.namespace}
    found = list(pages(client.list_pipelines, "pipelines", filter=named(name), **listing))
    if not found:
        names = [pipeline.display_name for pipeline in pages(client.list_pipelines, "pipelines", **listing)]
        raise InputError(f"There is no pipeline '{name}'.{nearest(name, names)}")
    pipeline = found[0].pipeline_id
    versions = list(
        pages(
            client.list_pipeline_versions,
            "pipeline_versions",
            pipeline_id=pipeline,
            sort_by="created_at desc",
        )
    )
    fitting = [v for v in versions if version in (None, v.display_name, v.pipeline_version_id)]
    if not fitting:
        names = [v.display_name for v in versions]
        hint = nearest(version, names) if version and names else " It has no version."
        raise InputError(f"Pipeline '{name}' has no version '{version or ''}'.{hint}")
    return str(pipeline), str(fitting[0].pipeline_version_id)


def link(connection: KubeflowConnection, kind: str, id: str) -> str:
    """Address of a run or recurring run in the UI; empty without a host."""
    address = connection.address()
    return f"{address}/#/{kind}/details/{id}" if address else ""


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the SDK's prints and warnings, and without a line for each retry."""
    tries = logging.getLogger("urllib3.connectionpool")
    level = tries.level
    tries.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        tries.setLevel(level)


def _client_class() -> Any:
    import kfp
    import kfp_server_api

    class Client(kfp.Client):
        """kfp's client with a health check that does not retry and recognises a log-in page."""

        def _load_config(self, *given: Any, **named: Any) -> Any:
            config = super()._load_config(*given, **named)
            refresh, host = config.refresh_api_key_hook, config.host

            def refresh_and_keep_host(now: Any) -> None:
                """Refreshing a kubeconfig's token resets the host to the cluster's own; keep Kubeflow's."""
                refresh(now)
                now.host, now.refresh_api_key_hook = host, refresh_and_keep_host

            if refresh is not None:
                config.refresh_api_key_hook = refresh_and_keep_host
            return config

        def get_kfp_healthz(self, sleep_duration: int = 0) -> kfp_server_api.V2beta1GetHealthzResponse:
            host = self._existing_config.host
            try:
                raw = self._healthz_api.healthz_service_get_healthz(
                    _preload_content=False, _request_timeout=TIMEOUT_S
                )
                data = json.loads(raw.data)
            except kfp_server_api.ApiException as error:
                if error.status not in (400, 404):
                    raise
                raise InputError(
                    f"{host} answers, but not as Kubeflow Pipelines: {_message(error)} ({error.status}). "
                    f"Check --host, or the kubeconfig's context, and whether it is installed there."
                ) from None
            except ValueError:
                data = None
            if not isinstance(data, dict):
                raise InputError(
                    f"{host} answers, but not as Kubeflow Pipelines (a log-in page?). "
                    f"Check --host, and give a token with --token-file or {TOKEN_VARIABLE}, or a session "
                    f"cookie with {COOKIE_VARIABLE}."
                )
            return kfp_server_api.V2beta1GetHealthzResponse(multi_user=data.get("multi_user", False))

    return Client


def _of_status(error: Any, where: str, doing: str) -> PergolaError:
    said = _message(error)
    if error.status == 401:
        return InputError(
            f"Kubeflow at {where} does not accept the token (401): it is missing, wrong or expired. "
            f"Get a new token and give it with --token-file or {TOKEN_VARIABLE}."
        )
    if error.status == 403:
        return InputError(f"You are not allowed {doing or 'to do this'} at {where} (403): {said}")
    if error.status == 404:
        return InputError(f"{where} has nothing of this name or address (404): {said}")
    if error.status == 400:
        hint = _TOO_OLD if 'unknown field "securityContext"' in said else ""
        return InputError(f"Kubeflow at {where} refuses {doing or 'the request'} (400): {said}{hint}")
    return StepError(f"Kubeflow at {where} failed {doing} ({error.status}): {said}".replace("  ", " "))


def _message(error: Any) -> str:
    """The server's error message, without its stack."""
    body = error.body.decode("utf-8", "replace") if isinstance(error.body, bytes) else str(error.body or "")
    try:
        data = json.loads(body)
        body = str(data.get("message") or data.get("error") or body)
    except (ValueError, AttributeError):
        body = error.reason or body if body.lstrip().startswith("<") else body
    return (body.strip() or str(error.reason)).splitlines()[0][:500]


def _root(error: BaseException) -> str:
    reason = getattr(error, "reason", None)
    return (
        _root(reason)
        if isinstance(reason, BaseException)
        else re.sub(r"^(<.*?>|.*object at 0x\w+>|HTTPS?Connection\(.*?\)): ", "", str(error))
    )


def _kubeconfig() -> Path:
    named = os.environ.get("KUBECONFIG", "").split(os.pathsep)[0]
    return Path(named).expanduser() if named else Path("~/.kube/config").expanduser()
