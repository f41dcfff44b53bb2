"""An archive is complete in itself, holds what the manifest says, and is refused when it does not run."""

import ast
import json
import pickletools
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from export import archive
from export.pipeline import export_runtime
from export.trained import load_trained
from inference import selfcheck
from inference.bundle import Bundle
from inference.contract import Contract
from inference.goldens import Goldens
from inference.runtime import float32_names, runtime_module
from inference.store import archive as store_archive
from inference.store import manifest
from inference.store.archive import run_inprocess, unpacked
from inference.store.manifest import Manifest
from inference.tools.files import sha256
from tests.integration.exporting import printed
from tests.snapshot import snapshot
from tests.workspace import Workspace
from tests.zips import rewrite

OURS = ("inference", "models", "training", "export", "serve", "client")

per_runtime = pytest.mark.parametrize("runtime", float32_names())


def mar(workspace: Workspace, runtime: str) -> Path:
    return workspace.store / f"digits-{runtime}-1.0.mar"


@per_runtime
def test_the_manifest_describes_the_archive_and_every_file_in_it(exported: Workspace, runtime: str) -> None:
    entry = Manifest.read(exported.store).archives[f"digits-{runtime}"]
    path = mar(exported, runtime)
    assert (entry.file, entry.sha256, entry.bytes) == (path.name, sha256(path), path.stat().st_size)
    with unpacked(path) as directory:
        found = {path.relative_to(directory).as_posix(): digest for path, digest in snapshot(directory).items()}
        assert {name: file.sha256 for name, file in entry.files.items()} == found
        assert all((directory / name).stat().st_size == file.bytes for name, file in entry.files.items())
    assert entry.weights == sha256(exported.artifacts / "weights.safetensors")
    assert entry.contract == Contract.read(exported.artifacts / "contract.json").digest
    assert (entry.model, entry.runtime, entry.artifact) == ("digits", runtime, runtime_module(runtime).ARTIFACT)


def test_the_manifest_has_one_entry_for_each_archive_of_the_store_and_no_more(exported: Workspace) -> None:
    files = {entry.file for entry in Manifest.read(exported.store).archives.values()}
    assert files == {f"digits-{runtime}-1.0.mar" for runtime in float32_names()}
    assert {path.name for path in exported.store.iterdir()} == files | {manifest.NAME, manifest.LOCK}


@per_runtime
def test_an_archive_holds_its_code_artifact_contract_and_goldens_and_nothing_else(
    exported: Workspace, runtime: str
) -> None:
    artifact = runtime_module(runtime).ARTIFACT
    code = {path.relative_to(archive.ROOT).as_posix() for path in snapshot(archive.ROOT / "inference")}
    code = {name for name in code if "__pycache__" not in name} | {"models/__init__.py", "models/digits.py"}
    rest = {"handler.py", "model-config.yaml", "MAR-INF/MANIFEST.json", "bundle.json"}
    rest |= {artifact, "contract.json", "goldens.npz"}
    with unpacked(mar(exported, runtime)) as directory:
        assert {path.relative_to(directory).as_posix() for path in snapshot(directory)} == code | rest
        for name in code:
            assert (directory / name).read_bytes() == (archive.ROOT / name).read_bytes()
        for name in (artifact, "contract.json", "goldens.npz"):
            assert sha256(directory / name) == sha256(exported.artifacts / name)


@per_runtime
def test_an_archive_is_imported_with_no_repository_in_sight(exported: Workspace, runtime: str) -> None:
    program = (
        "import sys, handler, inference.selfcheck, inference.runtimes." + runtime + "\n"
        "for name, module in sorted(sys.modules.items()):\n"
        f"    if name.partition('.')[0] in ('handler', *{OURS}): print(module.__file__)\n"
        "print(*sys.modules, sep=',')"
    )
    with unpacked(mar(exported, runtime)) as directory:
        *files, modules = printed(program, directory).splitlines()
        assert len(files) > 10
        assert all(Path(file).is_relative_to(directory) for file in files)
    assert not {"client", "torchvision", "sklearn", "onnxscript"} & set(modules.split(","))


def test_a_package_of_aotinductor_is_loaded_without_torchs_compiler(exported: Workspace) -> None:
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from inference.runtime import load_artifact\n"
        "load_artifact('aoti', Path('model.pt2'), 'cpu', 1, None)\n"
        "print(*sys.modules, sep=',')"
    )
    with unpacked(mar(exported, "aoti")) as directory:
        modules = set(printed(program, directory).split(","))
    assert "torch" in modules
    assert not {"torch._dynamo", "torch._inductor"} & modules


@per_runtime
def test_an_archive_answers_its_goldens_at_every_hop_by_its_own_code(exported: Workspace, runtime: str) -> None:
    goldens = Goldens.read(exported.artifacts / "goldens.npz")
    decoded, computed, handled = selfcheck.inprocess_hops(mar(exported, runtime), goldens, runtime, 1)
    assert [hop.hop for hop in (decoded, computed, handled)] == ["decode", "runtime", "handler"]
    assert all(hop.comparison.ok for hop in (decoded, computed, handled))
    assert decoded.comparison.compared == len(goldens) >= 64
    assert computed.comparison.compared == handled.comparison.compared == 5 * len(goldens)


@per_runtime
def test_the_configuration_sets_both_numbers_of_workers_and_the_contracts_batch(
    exported: Workspace, runtime: str
) -> None:
    with unpacked(mar(exported, runtime)) as directory:
        described = json.loads((directory / "MAR-INF/MANIFEST.json").read_bytes())["model"]
        config = yaml.safe_load((directory / described["configFile"]).read_text())
        contract = Contract.read(directory / "contract.json")
    assert (config["minWorkers"], config["maxWorkers"]) == (1, 1)
    assert config["batchSize"] == contract.max_batch
    assert config["deviceType"] == "cpu"
    assert (described["modelName"], described["modelVersion"]) == (f"digits-{runtime}", "1.0")


@per_runtime
def test_no_archive_holds_a_pickled_file(exported: Workspace, runtime: str) -> None:
    """The graph of TorchScript has a format of its own for values, which torch reads without running what it names."""
    with unpacked(mar(exported, runtime)) as directory:
        paths = list(snapshot(directory))
        assert not [path.name for path in paths if path.suffix in {".pkl", ".pickle", ".pth", ".joblib"}]
        for path in paths:
            if path.suffix not in {".pt", ".py"}:
                assert path.read_bytes()[:2] not in {b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"}


def globals_in(pickled: bytes) -> set[str]:
    """The modules that a pickle names anything of."""
    named = {str(value).split()[0] for code, value, _ in pickletools.genops(pickled) if code.name in {"GLOBAL", "INST"}}
    assert not {code.name for code, *_ in pickletools.genops(pickled)} & {"STACK_GLOBAL", "EXT1", "EXT2", "EXT4"}
    return named


def test_what_torchscript_keeps_in_the_form_of_pickles_names_nothing_but_torchs_own(exported: Workspace) -> None:
    with zipfile.ZipFile(exported.artifacts / "model.pt") as file:
        pickles = [file.read(name) for name in file.namelist() if name.endswith(".pkl")]
    assert pickles
    modules = set().union(*map(globals_in, pickles))
    assert {module.partition(".")[0] for module in modules} <= {"torch", "__torch__", "collections"}


def test_nothing_of_ours_loads_a_pickle() -> None:
    for package in OURS:
        for path in (archive.ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call):
                    assert not _unpickles(node), f"{path}:{node.lineno}"


def _unpickles(call: ast.Call) -> bool:
    name, options = ast.unparse(call.func), {word.arg: ast.unparse(word.value) for word in call.keywords}
    if name == "torch.load":
        return options.get("weights_only") != "True"
    if name in {"pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load"}:
        return True
    return options.get("allow_pickle", "False") != "False"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("torch.load(path)", True),
        ("torch.load(path, weights_only=False)", True),
        ("torch.load(path, weights_only=True)", False),
        ("np.load(path, allow_pickle=True)", True),
        ("np.load(path, allow_pickle=False)", False),
        ("pickle.loads(body)", True),
    ],
)
def test_the_search_for_pickles_finds_them(text: str, found: bool) -> None:
    (expression,) = ast.parse(text).body
    assert isinstance(expression, ast.Expr)
    assert isinstance(expression.value, ast.Call)
    assert _unpickles(expression.value) == found


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the code that archives are packed from, to be broken."""
    root = tmp_path / "source"
    for package in ("inference", "models", "serve"):
        shutil.copytree(archive.ROOT / package, root / package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(archive, "ROOT", root)
    return root


def refused(exported: Workspace, tmp_path: Path) -> str:
    """What an eager export is refused with, nothing being published."""
    workspace = exported.copy_to(tmp_path / "workspace")
    trained = load_trained("digits", workspace.folder / "artifacts")
    goldens = Goldens.read(workspace.artifacts / "goldens.npz")
    before = snapshot(workspace.folder)
    with pytest.raises(ValueError, match=r"digits-eager-2\.0\.mar") as error:
        export_runtime(trained, goldens, "eager", "2.0", workspace.store)
    assert snapshot(workspace.folder) == before
    return str(error.value)


def test_an_archive_whose_code_cannot_be_imported_is_refused(exported: Workspace, tmp_path: Path, source: Path) -> None:
    predictor = source / "inference/predictor.py"
    predictor.write_text("from nowhere import nothing\n" + predictor.read_text())
    sentence = "digits-eager-2.0.mar does not run: ModuleNotFoundError: No module named 'nowhere'"
    assert refused(exported, tmp_path) == f"digits-eager-2.0.mar was not published. {sentence}"


def test_an_archive_whose_handler_answers_otherwise_is_refused_with_the_hop(
    exported: Workspace, tmp_path: Path, source: Path
) -> None:
    """Only in small batches, as a fault in batching would: the handler's own check of the goldens is at the largest."""
    predictor = source / "inference/predictor.py"
    text = predictor.read_text()
    line = "        rows = joined(inputs)\n"
    assert line in text
    predictor.write_text(text.replace(line, line + "        rows = rows[::-1] if len(rows) == 3 else rows\n"))
    sentence = refused(exported, tmp_path)
    assert sentence.startswith("digits-eager-2.0.mar differs from eager at handler, so it was not published.")
    assert "differ, worst" in sentence


def test_an_archive_whose_artifact_cannot_be_loaded_is_refused_at_the_runtime(
    exported: Workspace, tmp_path: Path, source: Path
) -> None:
    unloadable(source, "inference.runtime.CannotRun('not on this device')")
    sentence = "In batches of 1 it fails: it can't be loaded: not on this device"
    assert refused(exported, tmp_path).endswith(f"differs from eager at runtime, so it was not published. {sentence}")


EAGER = "inference/runtimes/eager.py"


def unloadable(source: Path, error: str) -> str:
    """The eager runtime's code, which raises an error instead of loading; `source` has it from then on."""
    raising = f"def load(path, *_):\n    import inference.runtime\n\n    raise {error}\n"
    code = f"{(source / EAGER).read_text()}\n\n{raising}"
    (source / EAGER).write_text(code)
    return code


def test_an_archive_that_the_machine_can_t_load_does_not_differ_from_anything(
    exported: Workspace, tmp_path: Path, source: Path
) -> None:
    unloadable(source, "ValueError('not on this device')")
    assert refused(exported, tmp_path).endswith("does not run: ValueError: not on this device")


def test_where_the_artifact_cannot_be_loaded_the_handler_is_red_too(
    exported: Workspace, tmp_path: Path, source: Path
) -> None:
    changed = unloadable(source, "inference.runtime.CannotRun('elsewhere')").encode()
    packed = repacked(mar(exported, "eager"), tmp_path / "digits-eager.mar", EAGER, changed)
    goldens = Goldens.read(exported.artifacts / "goldens.npz")
    decoded, computed, handled = (hop.comparison for hop in selfcheck.inprocess_hops(packed, goldens, "eager", 1))
    assert (decoded.ok, computed.ok, handled.ok) == (True, False, False)
    assert handled.sentence == "it can't be loaded: elsewhere"


def test_an_archive_whose_decoding_differs_is_refused_with_the_hop(
    exported: Workspace, tmp_path: Path, source: Path
) -> None:
    inputs = source / "inference/inputs/image/decode.py"
    text = inputs.read_text()
    assert "Resampling.BILINEAR" in text
    inputs.write_text(text.replace("Resampling.BILINEAR", "Resampling.BICUBIC"))
    assert refused(exported, tmp_path).startswith(
        "digits-eager-2.0.mar differs from eager at decode, so it was not published."
    )


def test_an_archive_with_wrong_goldens_would_not_start(exported: Workspace, tmp_path: Path) -> None:
    goldens = Goldens.read(exported.artifacts / "goldens.npz")
    wrong = tmp_path / "goldens.npz"
    replace(goldens, outputs=goldens.outputs + 1).write(wrong)
    packed = tmp_path / "digits-eager.mar"
    repacked(mar(exported, "eager"), packed, "goldens.npz", wrong.read_bytes())
    decoded, computed, handled = (hop.comparison for hop in selfcheck.inprocess_hops(packed, goldens, "eager", 1))
    assert (decoded.ok, computed.ok, handled.ok) == (True, True, False)
    assert handled.sentence.startswith("The goldens are answered wrongly: 78 of 78")


def repacked(archived: Path, packed: Path, changed: str, content: bytes) -> Path:
    """The archive with one file that is another."""
    shutil.copy(archived, packed)
    rewrite(packed, lambda files: {**files, changed: content})
    return packed


@pytest.mark.parametrize(("old", "new"), [('"refused"', '"said"'), ('"inputs"', '"images"'), ('f"handler_', 'f"by_')])
def test_an_archive_of_other_code_is_an_error_that_says_so(
    exported: Workspace, tmp_path: Path, old: str, new: str
) -> None:
    code = (archive.ROOT / "inference/selfcheck.py").read_text()
    assert old in code
    packed = repacked(
        mar(exported, "onnx"), tmp_path / "digits-onnx.mar", "inference/selfcheck.py", code.replace(old, new).encode()
    )
    goldens = Goldens.read(exported.artifacts / "goldens.npz")
    sentence = r"digits-onnx\.mar was exported by another version of this project\. Export it again\."
    with pytest.raises(RuntimeError, match=sentence):
        selfcheck.inprocess_hops(packed, goldens, "onnx", 1)


def test_an_archive_that_does_not_come_to_an_end_is_an_error(
    exported: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_archive, "RUN_SECONDS", 0.01)
    with pytest.raises(RuntimeError, match=r"digits-onnx-1\.0\.mar did not come to an end within 0\.01 s\."):
        run_inprocess("answers", mar(exported, "onnx"), 1)


@pytest.mark.parametrize("keep", [0, 100, -100])
def test_a_file_that_is_no_archive_is_an_error_with_its_name(exported: Workspace, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "digits-onnx.mar"
    path.write_bytes(mar(exported, "onnx").read_bytes()[:keep])
    with pytest.raises(RuntimeError, match=r"digits-onnx\.mar is no archive, or a damaged one\. Export it again\."):
        run_inprocess("answers", path, 1)


def test_two_exports_at_once_do_not_meet_in_the_folder_for_temporary_files(
    exported: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The archiver removes a folder of the model's name there."""
    others = tmp_path / "temporary" / "digits-eager" / "handler.py"
    others.parent.mkdir(parents=True)
    others.touch()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    contract = Contract.read(exported.artifacts / "contract.json")
    with unpacked(mar(exported, "eager")) as directory:
        bundle = Bundle.read(directory)
    path = tmp_path / "digits-eager-1.0.mar"
    archive.pack(path, {}, contract, bundle)
    assert zipfile.is_zipfile(path)
    assert others.exists()
