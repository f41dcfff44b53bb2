"""Other code in an archive: a function of it, named, is replaced by one that is written in a test."""

import ast
import builtins
import dis
import inspect
import textwrap
from collections.abc import Callable
from types import CodeType
from typing import Any

Files = dict[str, bytes]
Replacement = Callable[..., Any]

# What lies in the archive beside its code: the function as it is written in the test, around the one that it replaces.
MODULE = '''"""Put in by a test."""

from __future__ import annotations

import functools

{source}

def around(original):
    @functools.wraps(original)
    def replaced(*given, **named):
        return {name}(original, *given, **named)

    return replaced
'''
INSTALLED = """
import {module} as _{module}
{target} = _{module}.around({target})
"""


def replaced(files: Files, target: str, replacement: Replacement) -> Files:
    """`files` of an archive with `replacement` in the place of `target`: "package.module:function" or "…:Class.method".

    It is called with the function that it replaces, and with what that is called with; it imports what it needs, as
    nothing of the test's own module travels with it. Fails where the archive has no function of that name.
    """
    module, _, function = target.partition(":")
    place = module.replace(".", "/")
    file = f"{place}/__init__.py" if f"{place}/__init__.py" in files else f"{place}.py"
    assert file in files, f"{target}: the archive holds no {file}"
    code = files[file].decode()
    tree = ast.parse(code)
    assert _defines(tree, function.split(".")), f"{target}: {file} of the archive has no function of that name"
    name = replacement.__name__
    behind = sorted(_from_outside(replacement.__code__) - vars(builtins).keys())
    assert not behind, f"{name} needs {behind}, which stays behind: import it there"
    source = textwrap.dedent(inspect.getsource(replacement))
    added = f"replaced_{name}"
    lines = code.splitlines(keepends=True)
    end = _end(tree, len(lines))
    installed = INSTALLED.format(module=added, target=function)
    return files | {
        f"{added}.py": MODULE.format(source=source, name=name).encode(),
        file: "".join([*lines[:end], installed, *lines[end:]]).encode(),
    }


def _defines(node: ast.AST, path: list[str]) -> bool:
    first, *rest = path
    for child in ast.iter_child_nodes(node):
        if rest and isinstance(child, ast.ClassDef) and child.name == first:
            return _defines(child, rest)
        if not rest and isinstance(child, ast.FunctionDef) and child.name == first:
            return True
    return False


def _from_outside(code: CodeType) -> set[str]:
    """The names that a function looks up in its module, or in the function around it; in those inside it too."""
    outside = {str(one.argval) for one in dis.get_instructions(code) if one.opname == "LOAD_GLOBAL"}
    inside = [_from_outside(one) for one in code.co_consts if isinstance(one, CodeType)]
    return outside.union(code.co_freevars, *inside) - {*code.co_cellvars, *code.co_varnames}


def _end(tree: ast.Module, lines: int) -> int:
    """Where everything is defined: the end of the file, or what is run where the module is the program."""
    for node in tree.body:
        if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test):
            return node.lineno - 1
    return lines
