"""The commands sync, release and rollback, as typed."""

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading

import click
import pytest
from click.testing import CliRunner

from pergola.components.errors import InputError, StepError
from pergola.components.store import release_record
from pergola.components.store.model_store import open_store
from pergola.pipelines.commands import deploy as deploying
from pergola.pipelines.commands import release
from tests.support.cluster import FakeCluster
from tests.support.versions import saved_model


@pytest.fixture
def store(tmp_path):
    (tmp_path / "store").mkdir()
    models = open_store(tmp_path / "store")
    for version in (1, 2, 3):
        models.put(saved_model(tmp_path / f"model-{version}", str(version)), "leaves", version)
    return models


@pytest.fixture
def typed(store):
    def run(line, at=store.uri):
        return command(*line.split(), *([f"--store={at}"] if "sync" not in line else []))

    return run


def command(*words):
    """The result of a command. Status 2 is raised as InputError, 1 as StepError, with what it says."""
    group = click.Group()
    release.register(group)
    deploying.register(group)
    result = CliRunner().invoke(group, words)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    if result.exit_code and "sync" not in words:
        raise {1: StepError, 2: InputError}[result.exit_code](result.stderr)
    return result


def test_release_walks_from_stable_over_canary_to_promotion_and_back(typed, store):
    assert typed("release stable 1").output == "leaves: stable 1. Published: 1, 2, 3.\n"
    assert "canary 2 with 10%" in typed("release canary 2 --share 10%").output
    assert "stable 2; rollback goes to 1" in typed("release promote").output
    answer = json.loads(typed("rollback --json").output)
    assert (answer["stable"], answer["previous"], answer["changed"]) == (1, None, True)
    assert json.loads(typed("release status --json").output)["changed"] is False


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("release stable", "needs a version"),
        ("release stable 9", "no version 9"),
        ("release canary 2 --share lots", "expects a percentage"),
        ("release canary 2", "needs a share"),
        ("release canary 2 --share 10% --route model-server", "--route expects NAMESPACE/NAME"),
        ("release stable 2 --share 10%", "--share applies to canary"),
        ("release promote 3", "promote takes no version, got 3"),
        ("release status 3", "status takes no version, got 3"),
        ("release promote", "no canary"),
        ("rollback", "No version before"),
        ("release status --model plants/..", "no model 'plants/..'"),
    ],
)
def test_release_says_what_is_wrong(typed, line, message):
    before = typed("release stable 1 --json").stdout
    with pytest.raises(InputError, match=message):
        typed(line)
    assert json.loads(typed("release status --json").stdout) == {**json.loads(before), "changed": False}


def test_release_says_what_is_wrong_as_json_too(store):
    group = click.Group()
    release.register(group)
    result = CliRunner().invoke(group, ["rollback", "--json", "--store", store.uri, "--model", "leave"])
    words = f"{store.uri} has no model 'leave'. Did you mean 'leaves'?"
    assert json.loads(result.stdout) == {"error": words, "status": 2} and result.exit_code == 2
    assert result.stderr == f"pergola: {words}\n"


def test_a_broken_record_is_written_anew_by_naming_the_stable_version(typed, store, tmp_path):
    record = tmp_path / "store" / "leaves" / "release.json"
    record.write_text('{"schema": "Rel')
    for line in ("release status", "release canary 2 --share 10%", "rollback"):
        with pytest.raises(InputError, match=r"not readable as JSON.*pergola release stable N"):
            typed(line)
    assert typed("release stable 2").output == "leaves: stable 2. Published: 1, 2, 3.\n"
    record.write_text('{"schema": "Release/2"}')  # of a later pergola, which is nobody's to overwrite
    with pytest.raises(InputError, match="not a release record of this version of pergola"):
        typed("release stable 3")


def test_a_store_without_permission_says_so_and_stays_as_it_was(store, tmp_path):
    store.change("leaves", lambda r: release_record.make_stable(r, 1))
    folder = tmp_path / "store" / "leaves"
    folder.chmod(0o555)  # root may write all the same, so the command runs without its capabilities
    plain = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    if plain and (
        not shutil.which("setpriv") or subprocess.run([*plain, "true"], capture_output=True).returncode
    ):
        pytest.skip("no setpriv to give root's rights up with")
    (folder / "release.json").chmod(0o444)
    (folder / ".lock").chmod(0o444)
    words = ["release", "stable", "2", "--store", store.uri, "--json"]
    done = subprocess.run(
        [*plain, sys.executable, "-m", "pergola.pipelines.commands.cli", *words],
        capture_output=True,
        text=True,
    )
    folder.chmod(0o755)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    said = json.loads(done.stdout)["error"]
    assert said.startswith("No permission to use the model store: ") and "owner and fsGroup" in said
    assert store.release("leaves").stable == 1
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "1", "2", "3", "release.json"]


def test_push_copies_a_version_to_another_store(typed, store, tmp_path):
    (tmp_path / "other").mkdir()
    output = typed(f"push 2 --from {store.uri}", at=str(tmp_path / "other")).output
    assert output == f"{tmp_path / 'other'}/leaves/2: 4 files.\n"
    assert open_store(tmp_path / "other").versions("leaves") == [2]
    with pytest.raises(InputError, match=r"no version 9 of 'leaves'\. Published: 1, 2, 3"):
        typed(f"push 9 --from {store.uri}", at=str(tmp_path / "other"))


def test_release_wants_a_model_when_there_are_several(typed, store, tmp_path):
    store.put(tmp_path / "model-1", "plants", 1)
    with pytest.raises(InputError, match=r"has 2 models \(leaves, plants\)"):
        typed("release stable 1")
    assert "plants: stable 1" in typed("release stable 1 --model plants").output


def test_sync_once_fetches_and_stops(typed, store, tmp_path):
    store.change("leaves", lambda r: release_record.make_stable(r, 3))
    result = typed(f"sync {store.uri} {tmp_path / 'served'} --once --json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["models"]["leaves"]["labels"] == {"stable": 3}
    assert os.listdir(tmp_path / "served" / "leaves") == ["3"]


def test_sync_once_says_when_nothing_is_released(typed, store, tmp_path):
    result = typed(f"sync {store.uri} {tmp_path / 'served'} --once")
    assert result.exit_code == 1
    assert "pergola release stable N" in result.stdout


def test_sync_refuses_half_of_what_tls_needs(typed, store, tmp_path):
    with pytest.raises(InputError, match="must be given together"):
        typed(f"sync {store.uri} {tmp_path / 'served'} --once --certificates {tmp_path}")


@pytest.mark.slow  # imports MLflow and makes its database
def test_the_champion_alias_follows_stable(typed, store, tmp_path):
    from pergola.components.release.registry.registry import Registry

    tracking = f"sqlite:///{tmp_path}/mlflow.db"
    registry = Registry(tracking)
    for number in (1, 2):
        run = registry.runs.open(f"run-{number}")
        registry.register("leaves", run, tmp_path / f"model-{number}", sha256=f"{number}" * 64)
    typed(f"release stable 2 --tracking {tracking}")
    assert Registry(tracking).champion("leaves").version == 2
    registry.promote("leaves", 1)  # said again it is mended, though the record is as it was
    typed(f"release stable 2 --tracking {tracking}")
    assert registry.champion("leaves").version == 2


@pytest.mark.slow  # imports MLflow
def test_a_registry_that_is_away_is_told_after_the_record_is_written(typed, store, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(
        StepError, match=r"champion was not\. No MLflow answers at http://127.0.0.1:9: .*refused\."
    ):
        typed("release stable 2 --tracking http://127.0.0.1:9")
    assert store.release("leaves").stable == 2


def test_release_imports_nothing_heavy():
    script = (
        "import sys; from pergola.pipelines.commands import release; "
        "heavy = {'numpy', 'tensorflow', 'mlflow', 'pandas', 'fsspec', 'grpc'} & set(sys.modules); "
        "sys.exit(len(heavy))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A cluster that KUBECONFIG names."""
    with FakeCluster() as fake:
        monkeypatch.setenv("KUBECONFIG", str(fake.kubeconfig(tmp_path / "kubeconfig")))
        yield fake


def deploy(line):
    return command("deploy", *line.split()).stdout


@pytest.fixture
def overlay(tmp_path):
    folder = tmp_path / "overlay"
    folder.mkdir()
    (folder / "kustomization.yaml").write_text("namespace: pergola\nresources: [all.yaml]\n")
    (folder / "all.yaml").write_text(
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: pergola}\n---\n"
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: model-server}\nspec:\n"
        "  selector: {matchLabels: {app: x}}\n  template:\n    metadata: {labels: {app: x}}\n"
        "    spec: {containers: [{name: server, image: 'x:1'}]}\n"
    )
    return folder


needs_kustomize = pytest.mark.skipif(
    not (shutil.which("kustomize") or shutil.which("kubectl")), reason="no kustomize: scripts/kustomize-tools"
)


@needs_kustomize
def test_deploy_applies_an_overlay_and_waits(cluster, overlay):
    output = deploy(f"{overlay} --timeout 20")
    assert "Deployment/model-server applied" in output
    assert "All workloads are ready." in output
    answer = json.loads(deploy(f"{overlay} --timeout 0 --json"))
    assert answer == {
        "objects": ["Namespace/pergola", "Deployment/model-server"], "dry_run": False, "runs": False,
    }  # fmt: skip


@needs_kustomize
def test_deploy_ends_with_the_reason_when_it_does_not_come_to_run(cluster, overlay):
    waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
    cluster.fate = lambda name: [{"containerStatuses": [{"name": "server", "state": {"waiting": waiting}}]}]
    with pytest.raises(StepError, match="no such image"):
        deploy(f"{overlay}")


@needs_kustomize
def test_deploy_without_a_cluster_is_the_callers_mistake(overlay, monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(InputError, match=r"No cluster is configured: .*KUBECONFIG or --context"):
        deploy(f"{overlay}")


def test_deploy_of_an_unknown_overlay_names_ours(cluster):
    with pytest.raises(InputError, match="dev, gateway, gpu, kserve, production, tls"):
        deploy("prod")


def test_release_canary_moves_the_weights_of_a_route(cluster, typed):
    backends = [{"name": "model-server-stable", "port": 8500}, {"name": "model-server-canary", "port": 8500}]
    path = "/apis/gateway.networking.k8s.io/v1/namespaces/pergola/grpcroutes/model-server"
    cluster.objects[path] = {
        "kind": "GRPCRoute",
        "metadata": {"name": "model-server", "resourceVersion": "1"},
        "spec": {"rules": [{"backendRefs": backends}]},
    }
    typed("release stable 1")
    typed("release canary 2 --share 10% --route pergola/model-server")
    weights = [b["weight"] for b in cluster.objects[path]["spec"]["rules"][0]["backendRefs"]]
    assert weights == [900, 100]
    with pytest.raises(StepError, match="The release record was written, but the route was not"):
        typed("release promote --route pergola/absent")


class Monitored(http.server.BaseHTTPRequestHandler):
    """A monitoring page that counts `step` requests more, `bad` of them failed, each time it is read."""

    def do_GET(self):
        track = self.server.track
        track["good"] += track["step"] - track["bad"]
        track["failed"] += track["bad"]
        name = ":tensorflow:serving:request_count"
        page = "".join(
            f'{name}{{model_name="leaves",status="{status}"}} {track[key]}\n'
            for status, key in (("OK", "good"), ("INTERNAL", "failed"))
        )
        self.send_response(200)
        self.end_headers()
        self.wfile.write(page.encode())

    def log_message(self, *arguments):
        pass


@pytest.fixture
def monitored():
    servers = []

    def start(step, bad=0):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Monitored)
        server.track = {"good": 0, "failed": 0, "step": step, "bad": bad}
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def test_promote_watch_promotes_a_sound_canary(typed, store, monitored):
    typed("release stable 1")
    typed("release canary 2 --share 10%")
    at = f"--stable-at {monitored(9000)} --canary-at {monitored(1000)} --window 1"
    output = typed(f"release promote --watch {at}").output
    assert output.startswith("promote: error rate 0.00%")
    assert store.release("leaves").stable == 2


def test_promote_watch_withdraws_a_canary_that_fails(typed, store, monitored):
    typed("release stable 1")
    typed("release canary 2 --share 10%")
    at = f"--stable-at {monitored(9000)} --canary-at {monitored(1000, bad=100)} --window 1"
    output = typed(f"release promote --watch {at}").output
    assert output.startswith("withdraw: error rate 10.00%")
    assert (store.release("leaves").stable, store.release("leaves").canary) == (1, None)


def test_promote_watch_changes_nothing_when_it_cannot_tell(typed, store, monitored):
    typed("release stable 1")
    typed("release canary 2 --share 10%")
    at = f"--stable-at {monitored(9000)} --canary-at {monitored(3)} --window 1"
    with pytest.raises(StepError, match="Nothing was changed: the canary got 3 requests"):
        typed(f"release promote --watch {at}")
    assert store.release("leaves").canary == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("release status --watch", "applies to promote"),
        ("release promote --watch", "needs --stable-at and --canary-at"),
        (
            "release promote --watch --stable-at http://a --canary-at http://b --golden x",
            "must be given together",
        ),
    ],
)
def test_promote_watch_says_what_it_wants(typed, line, message):
    typed("release stable 1")
    typed("release canary 2 --share 10%")
    with pytest.raises(InputError, match=message):
        typed(line)
