"""The code keeps the promises of its layout: who imports whom, what an import does, how long a function is."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STAGES = ("inference", "models", "training", "export", "serve", "client", "benchmarks")
SOURCES = {path: ast.parse(path.read_text()) for stage in STAGES for path in sorted((ROOT / stage).rglob("*.py"))}
EVERYTHING = SOURCES | {path: ast.parse(path.read_text()) for path in sorted((ROOT / "tests").rglob("*.py"))}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in SOURCES}


def imports(path: Path, nodes: Iterator[ast.AST]) -> set[str]:
    """The dotted names that these nodes import; `from a import b` may mean the module a.b, so it gives a and a.b."""
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name_of(path)}:{node.lineno} imports by a relative name"
            assert node.module
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def at_import_time(node: ast.AST) -> Iterator[ast.AST]:
    """What is executed when the module is imported: everything but bodies of functions and `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from at_import_time(child)


def drawn_in(module: str) -> set[str]:
    """Everything that importing one of our modules imports, ours followed through."""
    seen: set[str] = set()
    pending = [module]
    while pending:
        name = pending.pop()
        if name in seen:
            continue
        seen.add(name)
        parent = name.rpartition(".")[0]
        pending += [parent] if parent else []
        if name in MODULES:
            pending += imports(MODULES[name], at_import_time(SOURCES[MODULES[name]]))
    return seen


def test_a_stage_imports_only_from_earlier_stages() -> None:
    wrong = {}
    for path, tree in SOURCES.items():
        stage = path.relative_to(ROOT).parts[0]
        later = set(STAGES[STAGES.index(stage) + 1 :])
        wrong[name_of(path)] = {name.partition(".")[0] for name in imports(path, ast.walk(tree))} & later
    assert {name: used for name, used in wrong.items() if used} == {}


# The archiver takes along what a host's worker starts with, which is that host's.
HANDLER = ("export/archive.py", "serve/torchserve/handler.py")


def test_no_string_names_a_module_of_a_later_stage() -> None:
    """Neither to import it nor to run it; sentences, which have spaces, may name commands."""
    found = set()
    for path, tree in SOURCES.items():
        stage = path.relative_to(ROOT).parts[0]
        later = "|".join(STAGES[STAGES.index(stage) + 1 :])
        for node in ast.walk(tree) if later else ():
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if re.fullmatch(rf"(-m )?({later})([./]\w+)+", text):
                found.add((name_of(path), text))
    assert found == {HANDLER}


def test_the_client_draws_in_no_torch() -> None:
    foreign = {"torch", "torchvision", "onnxruntime", "ts"}
    client = [name for name in MODULES if name.partition(".")[0] == "client"]
    drawn = {name: {one.partition(".")[0] for one in drawn_in(name)} & foreign for name in client}
    assert client
    assert {name: found for name, found in drawn.items() if found} == {}


def test_the_client_imports_no_torch_when_it_runs() -> None:
    modules = [name for name in MODULES if name.partition(".")[0] == "client"]
    code = f"import sys; sys.modules['torch'] = None\nimport {', '.join(modules)}"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_nothing_edits_the_import_path() -> None:
    uses = [
        f"{name_of(path)}:{node.lineno}"
        for path, tree in EVERYTHING.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "path" and ast.unparse(node) == "sys.path"
    ]
    assert uses == []


# Imports every module twice over: once to let the libraries do what they do, then ours, between two looks at the world.
WATCH = """
import importlib, json, logging, os, pathlib, signal, socket, sys, warnings
foreign, ours = json.loads(sys.argv[1])
for name in foreign:
    try:
        importlib.import_module(name)
    except ImportError:
        pass  # the name of something inside a module
import torch

def world():
    loggers = map(logging.getLogger, (None, *logging.Logger.manager.loggerDict))
    return {
        "files": sorted(str(path) for path in pathlib.Path.home().rglob("*")),
        "directory": os.getcwd(),
        "environment": dict(os.environ),
        "path": sys.path[:],
        "loggers": {log.name: [log.level, str(log.handlers)] for log in loggers if log.handlers or log.level},
        "signals": {str(s): str(signal.getsignal(s)) for s in (signal.SIGINT, signal.SIGTERM, signal.SIGPIPE)},
        "filters": [str(f) for f in warnings.filters],
        "threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
        "tf32": [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32],
        "precision": torch.get_float32_matmul_precision(),
        "cudnn": [torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic, torch.backends.cudnn.enabled],
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "grad": torch.is_grad_enabled(),
        "dtype": str(torch.get_default_dtype()),
        "seed": torch.initial_seed(),
        "cuda": torch.cuda.is_initialized(),
        "limit": sys.getrecursionlimit(),
    }

def no_network(*args, **kwargs):
    raise AssertionError("an import opened a socket")

before = world()
socket.socket.connect = no_network
for name in ours:
    importlib.import_module(name)
after = world()
print(json.dumps({key: [before[key], after[key]] for key in before if before[key] != after[key]}))
"""


def test_imports_have_no_side_effects(tmp_path: Path) -> None:
    adapters = {name for name in MODULES if name.startswith("benchmarks.peers.") and name.endswith(".adapter")}
    ours = [name for name in MODULES if not name.endswith("__main__") and name not in adapters]  # peers lie elsewhere
    foreign = sorted({n for m in ours for n in drawn_in(m) if n.partition(".")[0] not in STAGES})
    watch = subprocess.run(
        [sys.executable, "-c", WATCH, json.dumps([foreign, ours])],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert watch.returncode == 0, watch.stderr
    assert json.loads(watch.stdout) == {}


def test_functions_stay_short() -> None:
    long = [
        f"{node.name} at {name_of(path)}:{node.lineno}"
        for path, tree in EVERYTHING.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno is None or node.end_lineno - node.lineno >= 60)
    ]
    assert long == []


def test_modules_stay_short_and_say_what_they_are_for() -> None:
    lines = {name_of(path): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name: count for name, count in lines.items() if count > 300} == {}
    assert [name_of(path) for path, tree in SOURCES.items() if not ast.get_docstring(tree)] == []


DOGS = "vision.stanford.edu"  # a data set's own server


def test_no_package_index_is_named() -> None:
    for name in ("requirements.lock", "pyproject.toml", "Makefile", ".ci/run", *map(name_of, SOURCES)):
        text = (ROOT / name).read_text()
        assert not re.search(r"--(extra-)?index-url|--find-links|PIP_INDEX|UV_INDEX|/simple\b", text), name
        assert set(re.findall(r"https?://([\w.-]+)", text)) <= {"127.0.0.1", DOGS}, name


def test_every_key_of_the_server_configuration_has_its_why() -> None:
    """Two keys that belong together may share one comment."""
    paragraphs = (ROOT / "serve" / "torchserve" / "config.properties").read_text().strip().split("\n\n")
    for paragraph in paragraphs:
        keys = [line for line in paragraph.splitlines() if not line.startswith("#")]
        assert re.match(r"# .{20,}", paragraph), f"{keys}: a comment above has to say why"
        assert len(keys) <= 2, f"{keys}: each needs a comment of its own"


@pytest.mark.parametrize("stage", ["serve", "client"])
def test_what_runs_apart_from_the_repository_imports_inference_alone(stage: str) -> None:
    """The image holds `serve/` and `inference/`; the client is installed with `inference/`."""
    for path, tree in SOURCES.items():
        if path.relative_to(ROOT).parts[0] == stage:
            used = {name.partition(".")[0] for name in imports(path, ast.walk(tree))}
            assert used & set(STAGES) <= {"inference", stage}, name_of(path)


def test_every_package_is_in_the_distribution() -> None:
    packages = re.search(r"^packages = (\[.+\])$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert packages
    assert sorted(json.loads(packages[1])) == sorted(module_of(p) for p in SOURCES if p.name == "__init__.py")


def test_every_lint_suppression_names_its_rule() -> None:
    for path in EVERYTHING:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            bare = re.search(r"#\s*(noqa|type:\s*ignore)(?!: [A-Z]+\d|\[)", line)
            assert not bare, f"{name_of(path)}:{number}"
