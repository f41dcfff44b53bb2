"""What a good request is answered: labels, logits, order, and the truth about what computed them."""

import json
import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import requests
from numpy.typing import NDArray

from inference.goldens import Goldens
from inference.inputs.image import Pixels
from inference.outputs.classes import TOP_K
from inference.protocol import ATTESTED, NPY
from inference.store.manifest import Manifest
from inference.tools.files import sha256
from inference.tools.limits import threads_per_worker
from serve.torchserve.launch import Ports
from tests.served.asking import RUNTIMES, Eager, Raw, close, npy
from tests.unit.test_inputs import noise
from tests.workspace import ROOT, Workspace

PROVIDERS = {
    "eager": "torch",
    "torchscript": "torch.jit",
    "onnx": "CPUExecutionProvider",
    "aoti": "AOTInductor",
}
each_runtime = pytest.mark.parametrize("runtime", RUNTIMES)


@pytest.fixture(scope="module")
def goldens(served: Workspace) -> Goldens:
    return Goldens.read(served.artifacts / "goldens.npz")


def images(count: int, goldens: Goldens) -> Pixels:
    """uint8 [count, 28, 28, 1], all different."""
    rows = goldens.inputs[np.arange(count) % len(goldens)].copy()
    rows[:, 0, :3, 0] = 2 * np.arange(count)[:, None]
    return rows


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """[C] → [C], in float64."""
    powers: NDArray[np.float64] = np.exp(logits.astype(np.float64) - logits.max())
    return powers / float(powers.sum())


def check_ranking(answer: dict[str, Any], logits: NDArray[np.float32], top_k: int) -> None:
    scores = softmax(logits)
    best = np.argsort(-logits)[:top_k]
    assert [one["label"] for one in answer["top"]] == [str(index) for index in best]
    assert [one["score"] for one in answer["top"]] == pytest.approx(scores[best].tolist(), rel=1e-12)
    assert (answer["label"], answer["score"]) == (answer["top"][0]["label"], answer["top"][0]["score"])
    assert answer.keys() == {"label", "score", "top"}


@each_runtime
def test_json_is_the_softmax_of_the_logits(raw: Raw, goldens: Goldens, runtime: str) -> None:
    for body in goldens.requests[::13]:
        logits, _ = raw.logits(body, f"digits-{runtime}")
        check_ranking(raw.post(body, f"digits-{runtime}").json(), logits[0], top_k=5)


@each_runtime
def test_npy_is_float32_and_the_same_bits_each_time(raw: Raw, goldens: Goldens, runtime: str) -> None:
    for row in range(0, len(goldens), 13):
        first, second = (raw.logits(goldens.requests[row], f"digits-{runtime}")[0] for _ in range(2))
        assert first.dtype == np.float32
        assert first.shape == (1, 10)
        assert np.array_equal(first, second)
        assert close(first, goldens.outputs[[row]], runtime)


@each_runtime
@pytest.mark.parametrize("count", [1, 7, 32, 100])
def test_an_array_is_answered_for_all_its_images_in_order(
    raw: Raw, eager: Eager, goldens: Goldens, runtime: str, count: int
) -> None:
    """100 is more than the largest batch, so that it is computed in four."""
    pixels = images(count, goldens)
    logits, size = raw.logits(npy(pixels), f"digits-{runtime}", NPY)
    assert size == min(count, 32)
    assert close(logits, eager.run(pixels), runtime)
    one_by_one = [raw.logits(npy(pixels[row : row + 1]), f"digits-{runtime}", NPY)[0] for row in range(count)]
    assert close(logits, np.concatenate(one_by_one), runtime)


def test_an_array_in_json_is_a_list_of_predictions(raw: Raw, goldens: Goldens) -> None:
    body = npy(images(100, goldens))
    logits, _ = raw.logits(body, content_type=NPY)
    answer = raw.post(body, headers={"Content-Type": NPY, TOP_K: "2"}).json()
    assert answer.keys() == {"predictions"}
    for prediction, row in zip(answer["predictions"], logits, strict=True):
        check_ranking(prediction, row, top_k=2)


def test_an_array_in_fortran_order_is_the_same_array(raw: Raw, goldens: Goldens) -> None:
    pixels = images(7, goldens)
    in_c, in_fortran = (raw.logits(npy(np.asarray(pixels, order=order)), content_type=NPY)[0] for order in ("C", "F"))
    assert np.array_equal(in_c, in_fortran)


@pytest.mark.parametrize("top_k", [1, 3, 10])
def test_top_k_says_how_many_labels_are_ranked(raw: Raw, seven: bytes, top_k: int) -> None:
    check_ranking(raw.post(seven, headers={TOP_K: str(top_k)}).json(), raw.logits(seven)[0][0], top_k)


@pytest.mark.parametrize("accept", ["", "*/*", "application/json", "text/html, application/*;q=0.8"])
def test_json_is_the_answer_to_whoever_takes_it(raw: Raw, seven: bytes, accept: str) -> None:
    response = raw.post(seven, headers={"Accept": accept})
    assert response.headers["Content-Type"] == "application/json"
    assert response.json()["label"] == "7"


@pytest.mark.parametrize("accept", [NPY, "application/json;q=0.5, Application/X-NPY"])
def test_npy_is_the_answer_to_whoever_names_it(raw: Raw, seven: bytes, accept: str) -> None:
    response = raw.post(seven, headers={"Accept": accept})
    assert response.headers["Content-Type"] == NPY
    assert np.load(BytesIO(response.content)).shape == (1, 10)


def attested(response: requests.Response) -> dict[str, str]:
    return {name: response.headers[header] for name, header in ATTESTED.items()}


@each_runtime
def test_headers_attest_what_ran(raw: Raw, served: Workspace, seven: bytes, runtime: str) -> None:
    archive = Manifest.read(served.store).archives[f"digits-{runtime}"]
    assert attested(raw.post(seven, f"digits-{runtime}")) == {
        "model": f"digits-{runtime}",
        "version": archive.version,
        "weights": sha256(served.artifacts / "weights.safetensors"),
        "artifact": sha256(served.artifacts / archive.artifact),
        "contract": sha256(served.artifacts / "contract.json"),
        "runtime": runtime,
        "provider": PROVIDERS[runtime],
        "device": "cpu",
        "precision": "float32",
        "tf32": "off",
        "decoder": "cpu",
        "batch_size": "1",
    }


@each_runtime
def test_describing_says_the_same_as_the_headers_and_gives_the_contract(
    raw: Raw, served: Workspace, seven: bytes, runtime: str
) -> None:
    url = f"{served.management_url}/models/digits-{runtime}?customized=true"
    headers = {"Authorization": f"Bearer {raw.token('management')}"}
    (described,) = raw.session.get(url, headers=headers, timeout=60).json()
    said = described["customizedMetadata"]
    assert {**said["attestation"], "batch_size": "1"} == attested(raw.post(seven, f"digits-{runtime}"))
    assert said["contract"] == json.loads((served.artifacts / "contract.json").read_bytes())


def test_concurrent_requests_share_batches_and_each_gets_its_own_answer(raw: Raw, goldens: Goldens) -> None:
    rows = [row % len(goldens) for row in range(200)]
    with ThreadPoolExecutor(16) as workers:
        answers = list(workers.map(lambda row: raw.logits(goldens.requests[row]), rows))
    assert close(np.concatenate([logits for logits, _ in answers]), goldens.outputs[rows], "onnx")
    sizes = {size for _, size in answers}
    assert max(sizes) > 1
    assert max(sizes) <= 32


def test_a_version_may_be_named_in_the_url(raw: Raw, served: Workspace, seven: bytes) -> None:
    version = Manifest.read(served.store).archives["digits-onnx"].version
    response = raw.post(seven, f"digits-onnx/{version}")
    assert (response.json()["label"], response.headers["X-Model-Version"]) == ("7", version)


def test_put_is_answered_like_post(raw: Raw, seven: bytes) -> None:
    assert raw.post(seven, method="PUT").json() == raw.post(seven).json()


def test_a_form_with_one_file_is_answered_like_its_bytes(raw: Raw, seven: bytes, goldens: Goldens) -> None:
    assert raw.post(files={"any name": ("seven.png", seven, "image/png")}).json() == raw.post(seven).json()
    body = npy(images(3, goldens))
    in_a_form = raw.post(files={"data": ("three.npy", body, NPY)}, headers={"Accept": NPY})
    assert np.array_equal(np.load(BytesIO(in_a_form.content)), raw.logits(body, content_type=NPY)[0])


def curl_command(served: Workspace, file: str) -> str:
    return served.run("client", "predict", file, "--curl", "--url", served.url).stdout.strip()


@pytest.mark.parametrize("name", ["seven.png", 'it\'s a "7" & $HOME.png', "seven.npy"])
def test_the_printed_curl_command_answers_in_a_shell_and_shows_no_token(
    raw: Raw, served: Workspace, seven: bytes, eager: Eager, name: str
) -> None:
    file = served.folder / "asked" / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(seven if name.endswith(".png") else npy(noise(2, 28, 28, 1)))
    command = curl_command(served, str(file))
    assert not any(raw.token(use) in command for use in ("inference", "management"))
    done = subprocess.run(["bash", "-c", command], cwd=served.folder, capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    if name.endswith(".png"):
        assert (answer["label"], done.stderr) == ("7", "")
    else:
        best = eager.run(noise(2, 28, 28, 1)).argmax(axis=1)
        assert [one["label"] for one in answer["predictions"]] == [str(index) for index in best]


# Around the predictions.

SAMPLE = re.compile(r'^[A-Za-z_]\w*(\{(\w+="[^"]*",?)*\})? -?[\d.]+(E-?\d+)?$')


def test_metrics_are_given_in_the_form_of_prometheus(raw: Raw, seven: bytes) -> None:
    """The metrics port needs no token; nothing but this machine reaches it."""
    before, answered = metrics(raw), raw.post(seven).status_code
    after = metrics(raw)
    name = 'ts_inference_requests_total{model_name="digits-onnx",model_version="default"'
    assert (answered, counter(after, name) - counter(before, name)) == (200, 1)


def metrics(raw: Raw) -> list[str]:
    url = f"http://127.0.0.1:{Ports(raw.served.port).metrics}/metrics"
    response = raw.session.get(url, timeout=60)
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    lines = response.text.splitlines()
    assert all(SAMPLE.match(line) or line.startswith(("# HELP ", "# TYPE ")) for line in lines)
    return lines


def counter(lines: list[str], name: str) -> float:
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def test_only_this_machine_can_reach_the_ports(served: Workspace) -> None:
    sockets: list[Any] = [found.laddr for found in psutil.net_connections("tcp") if found.status == psutil.CONN_LISTEN]
    ours = {(ip.removeprefix("::ffff:"), port) for ip, port in sockets if port in Ports(served.port).all}
    assert ours == {("127.0.0.1", port) for port in Ports(served.port).all}


@each_runtime
def test_a_worker_is_told_to_use_no_more_threads_than_its_share_of_the_cores(raw: Raw, runtime: str) -> None:
    environment = psutil.Process(raw.worker(f"digits-{runtime}").pid).environ()
    assert environment["OMP_NUM_THREADS"] == str(threads_per_worker(len(RUNTIMES)))


@each_runtime
def test_a_worker_runs_the_code_of_its_archive_and_none_of_this_repository(raw: Raw, runtime: str) -> None:
    process = psutil.Process(raw.worker(f"digits-{runtime}").pid)
    assert not Path(process.cwd()).is_relative_to(ROOT)
    assert str(ROOT) not in process.environ().get("PYTHONPATH", "").split(os.pathsep)
