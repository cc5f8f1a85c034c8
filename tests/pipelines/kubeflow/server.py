"""A Kubeflow Pipelines API server over HTTP that holds state and takes nothing that the API does not know.

Every body is read into the classes of kfp_server_api, which are generated from the published API, and
written back: what comes out other than it went in has an unknown key, a wrong type or a value that is
none of an enumeration, and is answered with 400. Refusals have the form of grpc-gateway.
"""

from __future__ import annotations

import json
import threading
import uuid
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from urllib.parse import parse_qs, unquote_plus, urlsplit

import kfp_server_api
import yaml

EXPERIMENT, RUN = "V2beta1Experiment", "V2beta1Run"
RECURRING, FILTER = "V2beta1RecurringRun", "V2beta1Filter"
PREFIX = "/apis/v2beta1/"
PROXY = "/api/v1/namespaces/kubeflow/services/ml-pipeline:http/proxy"  # of the Kubernetes API server


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Kubeflow:
    """The state. `requests` are (method, path, body) in order; `scripts` say how runs go on."""

    def __init__(self) -> None:
        self.url = ""
        self.token: str | None = None
        self.forbidden: set[str] = set()  # methods without a right
        self.multi_user = False
        self.login_page = False
        self.behind_cluster = False  # only the Kubernetes API server leads here
        self.failures: list[int] = []  # statuses of the next answers, 0 for a cut connection
        self.unknown_field = ""  # refused, wherever a pipeline holds it, as servers older than the SDK do
        self.page = 2  # small, so that paging is needed
        self.requests: list[tuple[str, str, object]] = []
        self.experiments: dict[str, dict] = {}
        self.pipelines: dict[str, dict] = {}
        self.versions: dict[str, list[dict]] = {}
        self.runs: dict[str, dict] = {}
        self.recurring: dict[str, dict] = {}
        self.script: list[dict] = []  # patches of a run, one a reading
        self.logs: dict[str, str] = {}  # pod -> log
        self.now = datetime(2026, 11, 21, tzinfo=UTC)

    def tick(self) -> str:
        """A later moment, as the API writes it."""
        self.now += timedelta(seconds=1)
        return self.now.strftime("%Y-%m-%dT%H:%M:%SZ")

    def add_pipeline(self, name: str, *specs: dict) -> str:
        """An uploaded pipeline with a version for each spec."""
        id = str(uuid.uuid4())
        self.pipelines[id] = {"pipeline_id": id, "display_name": name, "created_at": self.tick()}
        self.versions[id] = [
            {"pipeline_id": id, "pipeline_version_id": str(uuid.uuid4()), "display_name": f"v{n}",
             "created_at": self.tick(), "pipeline_spec": {"pipeline_spec": spec}}
            for n, spec in enumerate(specs, 1)
        ]  # fmt: skip
        return id

    def changes(self) -> list[tuple[str, str]]:
        """Requests that were not mere reading."""
        return [(method, path) for method, path, _ in self.requests if method != "GET"]

    def bodies(self, path: str) -> list[dict]:
        """Bodies that were posted to a path."""
        return [body for method, at, body in self.requests if method == "POST" and at == path]

    def answer(self, method: str, path: str, query: dict[str, str], body: object) -> object:
        """What the real server would say."""
        if path == "healthz":
            return {"multi_user": self.multi_user} if self.multi_user else {}
        kind, _, rest = path.partition("/")
        handler = getattr(self, f"_{kind}", None)
        if handler is None:
            raise Refused(404, "Not Found")
        return handler(method, rest, query, body)

    def _experiments(self, method: str, rest: str, query: dict[str, str], body: dict) -> object:
        if method == "POST":
            made = {
                **checked(body, EXPERIMENT),
                "experiment_id": str(uuid.uuid4()),
                "created_at": self.tick(),
            }
            if any(e["display_name"] == made["display_name"] for e in self.experiments.values()):
                raise Refused(409, "already exists")
            self.experiments[made["experiment_id"]] = made
            return made
        return self._listed("experiments", self.experiments, query)

    def _pipelines(self, method: str, rest: str, query: dict[str, str], body: dict) -> object:
        id, _, tail = rest.partition("/")
        if id == "":
            return self._listed("pipelines", self.pipelines, query)
        found = self.versions.get(id, [])
        if tail == "versions":
            return self._listed("pipeline_versions", {v["pipeline_version_id"]: v for v in found}, query)
        version = tail.removeprefix("versions/")
        return next(v for v in found if v["pipeline_version_id"] == version)

    def _runs(self, method: str, rest: str, query: dict[str, str], body: dict) -> object:
        if method == "POST":
            run = checked(body, RUN)
            self._check_job(run)
            made = {**run, "run_id": str(uuid.uuid4()), "state": "PENDING", "created_at": self.tick(),
                    "finished_at": "1970-01-01T00:00:00Z"}  # fmt: skip
            self.runs[made["run_id"]] = made
            return made
        if not rest:
            return self._listed("runs", self.runs, query)
        if rest not in self.runs:
            raise Refused(404, f"Failed to get a run: ResourceNotFoundError: Run {rest} not found")
        run = self.runs[rest]
        if self.script:
            run.update(self.script.pop(0))
        return run

    def _recurringruns(self, method: str, rest: str, query: dict[str, str], body: dict) -> object:
        if method == "POST" and not rest:
            job = checked(body, RECURRING)
            self._check_job(job)
            if not 1 <= int(job.get("max_concurrency", 0)) <= 10:
                raise Refused(400, "The max concurrency of the recurring run is out of range. Support 1-10.")
            mode = {"ENABLE": "ENABLED", "DISABLE": "DISABLED"}[job["mode"]]
            made = {**job, "recurring_run_id": str(uuid.uuid4()), "status": mode, "created_at": self.tick()}
            self.recurring[made["recurring_run_id"]] = made
            return made
        if not rest:
            return self._listed("recurring_runs", self.recurring, query, "recurringRuns")
        id, _, verb = rest.partition(":")
        if id not in self.recurring:
            raise Refused(404, f"Recurring run {id} not found")
        if method == "DELETE":
            del self.recurring[id]
        elif verb:
            self.recurring[id]["status"] = {"enable": "ENABLED", "disable": "DISABLED"}[verb]
        else:
            return self.recurring[id]
        return {}

    def _check_job(self, job: dict) -> None:
        if job.get("experiment_id") not in self.experiments:
            raise Refused(404, "Experiment not found")
        reference, spec = job.get("pipeline_version_reference"), job.get("pipeline_spec")
        if (reference is None) == (spec is None):
            raise Refused(400, "Please specify either a pipeline version or a pipeline spec")
        if reference:
            versions = self.versions.get(reference["pipeline_id"], [])
            if reference["pipeline_version_id"] not in [v["pipeline_version_id"] for v in versions]:
                raise Refused(404, "Pipeline version not found")

    def _listed(self, field: str, items: dict[str, dict], query: dict[str, str], key: str = "") -> dict:
        found = list(items.values())
        if query.get("filter"):
            filter = json.loads(unquote_plus(query["filter"]))
            for predicate in checked(_protojson(filter), FILTER)["predicates"]:
                assert predicate["operation"] == "EQUALS"
                found = [item for item in found if item.get(predicate["key"]) == predicate["string_value"]]
        if query.get("experiment_id"):
            found = [item for item in found if item.get("experiment_id") == query["experiment_id"]]
        if query.get("sort_by") == "created_at desc":
            found.sort(key=lambda item: item["created_at"], reverse=True)
        begin = int(query.get("page_token") or 0)
        end = begin + min(self.page, int(query.get("page_size") or 20))
        more = {"next_page_token": str(end)} if end < len(found) else {}
        return {key or field: found[begin:end], **more} if found else {}


def checked(body: object, model: str) -> dict:
    """The body, if the published API has exactly that; otherwise Refused."""
    client = kfp_server_api.ApiClient()
    try:
        read = client.deserialize(SimpleNamespace(data=json.dumps(body)), model)
        back = client.sanitize_for_serialization(read)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise Refused(400, f"{model}: {error}") from error
    if _plain(back) != _plain(body):
        raise Refused(400, f"{model} is not what the API knows: {body} became {back}")
    return body


def _protojson(filter: dict) -> dict:
    """A filter as kfp 2.17 writes it (a filter is a protocol buffer: numbers and camelCase are fine too)."""
    names = {"stringValue": "string_value"}
    operations = {1: "EQUALS"}
    predicates = [{names.get(k, k): v for k, v in p.items()} for p in filter["predicates"]]
    return {
        "predicates": [{**p, "operation": operations.get(p["operation"], p["operation"])} for p in predicates]
    }


def _plain(value: object) -> object:
    """Without empty values, moments as numbers, numbers as texts where the API has texts."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if v not in (None, "", {})}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if isinstance(value, str):
        try:
            return datetime.fromisoformat(value).timestamp() if "T" in value and ":" in value else value
        except ValueError:
            return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two packets, and the second would wait 40 ms

    def do_GET(self) -> None:
        self._serve("GET")

    def do_POST(self) -> None:
        self._serve("POST")

    def do_DELETE(self) -> None:
        self._serve("DELETE")

    def log_message(self, *args: object) -> None: ...

    def _serve(self, method: str) -> None:
        state = self.server.state
        path = self.path.replace("//", "/")
        url = urlsplit(path.removeprefix(PROXY))
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = json.loads(raw) if raw else None
        if state.login_page:
            return self._reply(200, b"<html><body>Log in</body></html>", "text/html")
        if state.failures and not url.path.endswith("healthz"):
            status = state.failures.pop(0)
            if not status:
                self.close_connection = True
                return self.connection.close()
            return self._refuse(status, "upstream connect error")
        if state.behind_cluster and not path.startswith(PROXY):
            return self._reply(404, b"404 page not found\n", "text/plain")
        if state.token and self.headers.get("Authorization") != f"Bearer {state.token}":
            return self._refuse(401, "Request header error: token is expired")
        if method in state.forbidden:
            return self._refuse(403, "User 'ann' is not authorized with reason: (namespace: other)")
        state.requests.append((method, url.path, body))
        log = state.logs.get(url.path.removesuffix("/log").rpartition("/")[2])
        if url.path.startswith("/apis/v1alpha1/runs/") and log:
            return self._reply(200, log.encode(), "text/plain")
        if state.unknown_field and f'"{state.unknown_field}"'.encode() in raw:
            known = f'proto: (line 1:2): unknown field "{state.unknown_field}"'
            return self._refuse(400, f"failed to unmarshal kubernetes config: {known}")
        if not url.path.startswith(PREFIX):
            return self._refuse(404, "Not Found")
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        try:
            answer = state.answer(method, url.path.removeprefix(PREFIX), query, body)
        except Refused as refused:
            return self._refuse(refused.status, str(refused))
        return self._reply(200, json.dumps(answer).encode(), "application/json")

    def _refuse(self, status: int, message: str) -> None:
        body = {"error": message, "code": 16, "message": message, "details": [{"@type": "x"}]}
        self._reply(status, json.dumps(body).encode(), "application/json")

    def _reply(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    state: Kubeflow

    def handle_error(self, request: object, client_address: object) -> None: ...


@contextmanager
def serve(address="127.0.0.1"):
    """A server on a free port."""
    server = _Server((address, 0), _Handler)
    server.state = Kubeflow()
    server.state.url = f"http://{address}:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def write_pipeline(path, name="leaves", parameters=None):
    """A compiled pipeline of one echo step, small and valid. parameters: name -> definition."""
    container = {"image": "python:3.11", "command": ["true"]}
    task = {"componentRef": {"name": "comp-echo"}, "taskInfo": {"name": "echo"}}
    spec = {
        "pipelineInfo": {"name": name},
        "schemaVersion": "2.1.0",
        "sdkVersion": "kfp-2.17.0",
        "components": {"comp-echo": {"executorLabel": "exec-echo"}},
        "deploymentSpec": {"executors": {"exec-echo": {"container": container}}},
        "root": {"dag": {"tasks": {"echo": task}}},
    }
    if parameters:
        spec["root"]["inputDefinitions"] = {"parameters": parameters}
    path.write_text(yaml.safe_dump(spec))
    return path, spec
