"""What the image has to hold of this repository: the control in serve/, with what that imports."""

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.workspace import ROOT

STAGES = ("training", "export", "serve")
DATA = {"export/tolerances.toml", "serve/config.properties", "serve/haproxy.cfg", "serve/log4j2.xml"}


def image_files() -> set[str]:
    return {str(path.relative_to(ROOT)) for path in needed(ROOT / "serve" / "__main__.py", set())} | DATA


def imports(node: ast.AST) -> Iterator[str]:
    """What a module imports, be it at its top or in a function, but not what only a type checker imports."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.module:
            yield from (child.module, *(f"{child.module}.{alias.name}" for alias in child.names))
        yield from imports(child)


def needed(path: Path, seen: set[Path]) -> set[Path]:
    """The files of this repository that importing one of them imports, packages included."""
    if path not in seen:
        seen |= {path}
        names = {f"{stage}.x" for stage in STAGES if path.is_relative_to(ROOT / stage)}
        for name in {*names, *imports(ast.parse(path.read_text()))}:
            if name.partition(".")[0] in STAGES:
                parts = ROOT.joinpath(*name.split("."))
                files = (parts.with_suffix(".py"), parts / "__init__.py", parts.parent / "__init__.py")
                for file in filter(Path.exists, files):
                    needed(file, seen)
    return seen
