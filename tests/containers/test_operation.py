"""What befalls a service in operation: stops, deaths, new versions, wrong answers. No answer is lost or wrong by it."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import pytest

from client.client import Client
from inference import parity
from inference.goldens import Goldens
from inference.outputs import Outputs
from inference.store import manifest
from inference.store.manifest import Manifest
from serve.torchserve.launch import MAIN_CLASS
from tests.containers.load import Answer, Load
from tests.containers.stack import MODEL, SERVICE, START_SECONDS, Stack, goldens_of, keep_only
from tests.workspace import Workspace

WORKER = "model_service_worker.py"
LIMIT = parity.tolerance("digits", "onnx", "float32", "cpu")

# Put at the end of an unpacked archive's handler: the worker starts as it should, and then answers wrongly.
WRONG = """
_initialize = Handler.initialize
def _initialize_and_break(self, context):
    _initialize(self, context)
    right = self.predictor.predict
    self.predictor.predict = lambda inputs: [logits + 1 for logits in right(inputs)]
Handler.initialize = _initialize_and_break
"""


def is_right(logits: Outputs, goldens: Goldens, row: int) -> bool:
    return parity.compare(logits, goldens[[row]], LIMIT).ok


def goldens_of_version(workspace: Workspace, version: str) -> Goldens:
    return goldens_of(workspace.store, Manifest.read(workspace.store).find(MODEL, version))


def wait_for_restart(stack: Stack) -> None:
    deadline = time.monotonic() + 60
    while stack.inspect()["RestartCount"] == 0:
        assert time.monotonic() < deadline, stack.log()
        time.sleep(0.1)
    stack.wait_for("healthy")


def test_a_stop_under_load_answers_all_that_it_has_taken(own: Stack) -> None:
    own.up()
    goldens = goldens_of_version(own.workspace, "1.0")
    with Load(own, goldens).running() as load:
        container, before = own.container, len(load.answers)
        own.compose("stop", SERVICE)
    assert load.broken == []
    assert len(load.answers) > before
    assert {answer.status for answer in load.answers} == {200}
    assert all(is_right(answer.logits, goldens, answer.row) for answer in load.answers if answer.status == 200)
    state = own.inspect()["State"]
    assert own.container == container
    assert (state["Status"], state["ExitCode"]) == ("exited", 0)  # 137 where it had not ended after 15 s


def test_tokens_survive_a_stop_and_a_new_container(own: Stack, seven: bytes) -> None:
    own.up()
    token, container = own.token(), own.container
    own.compose("rm", "--stop", "--force", SERVICE)
    own.up()
    assert own.container != container
    assert own.post(seven, token).status_code == 200


def test_a_rotated_token_lets_in_and_the_one_before_it_stays_valid_once(own: Stack, seven: bytes) -> None:
    own.up()
    tokens = [own.token()]
    for _ in range(2):
        own.execute("python", "-m", "serve", "rotate")
        tokens.append(own.token())
    assert [own.post(seven, token).status_code for token in tokens] == [401, 200, 200]


def test_after_java_is_killed_the_container_is_back_by_itself(own: Stack, seven: bytes) -> None:
    own.up()
    token = own.token()
    own.kill_processes(MAIN_CLASS)
    wait_for_restart(own)
    assert own.post(seven, token).json()
    assert "TorchServe has ended" in own.log()


def test_after_the_gateway_is_killed_the_container_is_back_by_itself(own: Stack, seven: bytes) -> None:
    own.up()
    token = own.token()
    own.kill_processes("haproxy.cfg")
    wait_for_restart(own)
    assert own.post(seven, token).status_code == 200


def test_a_killed_worker_costs_a_client_no_answer(own: Stack) -> None:
    own.up()
    goldens = goldens_of_version(own.workspace, "1.0")
    client = Client(own.workspace.url, token=own.token())
    ended = time.monotonic() + 600

    def ask(row: int) -> bool:
        assert time.monotonic() < ended
        return is_right(client.logits(goldens.requests[row], MODEL), goldens, row)

    with client, ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(ask, number % len(goldens)) for number in range(3000)]
        while sum(one.done() for one in asked) < 200:
            time.sleep(0.01)
        own.kill_processes(WORKER)
        assert not all(one.done() for one in asked)
        assert all(one.result() for one in asked)
    assert own.inspect()["RestartCount"] == 0


@pytest.fixture(scope="session")
def exported_anew(exported: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The store after version 2.0 was exported: other weights, so that every answer tells which version gave it."""
    workspace = exported.copy_to(tmp_path_factory.mktemp("anew"))
    keep_only(workspace.store, MODEL)
    folder = str(workspace.folder / "retrained")
    workspace.run("training", "digits", "--seed", "1", "--epochs", "3", "--output", folder)
    workspace.run("export", "digits", "--runtime", "onnx", "--version", "2.0", "--artifacts", folder)
    return workspace


def export_next(stack: Stack, anew: Workspace) -> None:
    """While it serves, as an export does it: the archive first, and then the manifest."""
    for path in sorted(anew.store.iterdir(), key=lambda path: path.name == manifest.NAME):
        shutil.copyfile(path, stack.workspace.store / path.name)


def common(first: Goldens, second: Goldens) -> tuple[Goldens, Goldens]:
    """What both versions were asked, in one order."""
    rows = {request: row for row, request in enumerate(second.requests)}
    shared = [row for row, request in enumerate(first.requests) if request in rows]
    return first[shared], second[[rows[first.requests[row]] for row in shared]]


def test_promote_and_rollback_under_load_fail_no_request_and_mix_no_answer(
    own: Stack, exported_anew: Workspace
) -> None:
    own.up()
    old = goldens_of_version(own.workspace, "1.0")
    export_next(own, exported_anew)
    old, new = common(old, goldens_of_version(own.workspace, "2.0"))
    with Load(own, old).running() as load:
        own.execute("python", "-m", "serve", "promote", MODEL, "2.0")
        load.wait_for(100)
        promoted = len(load.answers)
        own.execute("python", "-m", "serve", "rollback", MODEL)
        load.wait_for(100)
    assert load.broken == []
    assert [answer.text for answer in load.answers if answer.status != 200] == []
    both = {"1.0": old, "2.0": new}
    assert all(versions_of(answer, both) == [answer.version] for answer in load.answers)
    assert {answer.version for answer in load.answers[:32]} == {"1.0"}
    assert {answer.version for answer in load.answers[promoted - 20 : promoted]} == {"2.0"}
    assert {answer.version for answer in load.answers[-20:]} == {"1.0"}


def versions_of(answer: Answer, goldens: dict[str, Goldens]) -> list[str]:
    """Those whose golden the answer equals."""
    return [version for version, right in goldens.items() if is_right(answer.logits, right, answer.row)]


def test_a_promoted_version_is_served_after_a_restart(own: Stack, exported_anew: Workspace, seven: bytes) -> None:
    own.up()
    export_next(own, exported_anew)
    own.compose("restart", "--timeout", "15", SERVICE)
    own.wait_for("healthy")
    assert own.post(seven, own.token()).headers["X-Model-Version"] == "1.0"  # exported is not promoted
    own.execute("python", "-m", "serve", "promote", MODEL, "2.0")
    own.compose("rm", "--stop", "--force", SERVICE)
    own.up()
    assert own.post(seven, own.token()).headers["X-Model-Version"] == "2.0"


def test_workers_come_and_go(own: Stack) -> None:
    own.up()
    for workers in (2, 1):
        own.execute("python", "-m", "serve", "scale", MODEL, str(workers))
        assert own.execute("python", "-m", "serve", "status").stdout.count(" READY") == workers


def test_the_version_before_the_last_two_is_not_kept(own: Stack, exported_anew: Workspace) -> None:
    own.up()
    export_next(own, exported_anew)
    own.execute("python", "-m", "serve", "promote", MODEL, "2.0")
    own.workspace.run("export", "digits", "--runtime", "onnx", "--version", "3.0")
    own.execute("python", "-m", "serve", "promote", MODEL, "3.0")
    shown = own.execute("python", "-m", "serve", "status").stdout
    assert [version in shown for version in ("1.0", "2.0", "3.0")] == [False, True, True]


def test_the_local_servers_stop_is_refused_in_the_container(own: Stack) -> None:
    own.up()
    done = own.execute("python", "-m", "serve", "down", check=False)
    assert (done.returncode, done.stderr.strip()) == (
        2,
        "error: This server runs behind the gateway. Stop the service itself: docker compose stop",
    )
    assert own.health() == "healthy"


def break_answers(stack: Stack) -> None:
    """From now on the worker answers wrongly: its code is changed on disk, and it is started anew."""
    code = (
        "from pathlib import Path\n"
        "found = list(Path('/tmp').glob('torchserve-*/models/*/handler.py'))\n"
        "assert found\n"
        f"for path in found: path.open('a').write({WRONG!r})"
    )
    stack.python(code)
    stack.kill_processes(WORKER)


def test_wrong_answers_make_it_unhealthy_within_half_a_minute(own: Stack) -> None:
    own.up()
    goldens, token = goldens_of_version(own.workspace, "1.0"), own.token()
    break_answers(own)
    deadline = time.monotonic() + START_SECONDS
    with Client(own.workspace.url, token=token) as client:
        while is_right(client.logits(goldens.requests[0], MODEL), goldens, 0):
            assert time.monotonic() < deadline
    own.wait_for("unhealthy", 30)
    status = own.execute("python", "-m", "serve", "status", check=False)
    assert status.returncode == 1
    assert "no: " in status.stdout
    last = islice(reversed(own.inspect()["State"]["Health"]["Log"]), 1)
    assert "no: " in next(last)["Output"]


def test_a_replaced_archive_makes_a_running_service_unhealthy_and_says_so(own: Stack) -> None:
    own.up()
    path = own.workspace.store / Manifest.read(own.workspace.store).archives[MODEL].file
    flip_a_bit(path)
    own.wait_for("unhealthy", 60)
    output = " ".join(own.execute("python", "-m", "serve", "status", check=False).stdout.split())
    assert "its archive has changed" in output


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
