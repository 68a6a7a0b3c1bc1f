# SPDX-License-Identifier: Apache-2.0
"""DESIGN.md against the tree: the two tables of who may import whom, and the rules that every file keeps."""

from __future__ import annotations

import ast
import functools
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "pliant"
MAX_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_PARAMETERS = 12
# A method's own object, and the pair that every layer of PyTorch takes.
UNCOUNTED = {"self", "cls", "device", "dtype"}
IMPORTERS = {"__import__", "import_module", "require_package"}
SPDX = "SPDX-License-Identifier: Apache-2.0"
# A reminder is kept only where it says in brackets when it can go: an issue, or a version of a library.
REMINDER = re.compile(r"\b(TO" r"DO|FIX" r"ME)\b(?!\([^)]+\))")  # in pieces, so that this file does not find itself


def table(markdown: str, heading: str) -> list[list[str]]:
    """Return the body rows of the first table under `## heading`, split into cells."""
    section = markdown.split(f"\n## {heading}\n", maxsplit=1)[1].split("\n## ", maxsplit=1)[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def code_words(cell: str) -> list[str]:
    """Return what stands between backticks."""
    return re.findall(r"`([^`]+)`", cell)


def layers(markdown: str) -> dict[str, set[str]]:
    """Return for each layer of pliant the layers that it may import."""
    return {code_words(row[0])[0].removeprefix("pliant."): set(code_words(row[2])) for row in table(markdown, "Layers")}


def outside(markdown: str) -> dict[str, list[str]]:
    """Return for each outside module the pliant packages that alone may import it."""
    rows = table(markdown, "Who may import what from outside")
    return {code_words(row[0])[0]: code_words(row[1]) for row in rows}


DESIGN = (ROOT / "DESIGN.md").read_text(encoding="utf-8")
LAYERS = layers(DESIGN)
OUTSIDE = outside(DESIGN)


def imported(tree: ast.Module, package: str) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of everything imported in a module of `package`, `from a import b` as `a.b`.

    `require_package(...)` as a statement of its own only asks whether a package is there, and uses nothing of it.
    """
    asked = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)}
    asked = {node for node in asked if called(node) == "require_package"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            start = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{start}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and node not in asked and called(node) in IMPORTERS:
            names = [first.value for first in node.args[:1] if isinstance(first, ast.Constant)]
            yield from ((node.lineno, name) for name in names if isinstance(name, str))


def called(node: ast.Call) -> str:
    """Return the last part of the name of what is called, or an empty string."""
    return node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")


def dotted_uses(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield attribute chains such as `torch.library.define`, which need no import of their own."""
    for node in ast.walk(tree):
        names: list[str] = []
        inner: ast.expr | None = node if isinstance(node, ast.Attribute) else None
        while isinstance(inner, ast.Attribute):
            names.append(inner.attr)
            inner = inner.value
        if names and isinstance(inner, ast.Name):
            yield node.lineno, ".".join([inner.id, *reversed(names)])  # type: ignore[attr-defined]


def within(name: str, package: str) -> bool:
    """Say whether the dotted `name` is `package` or lies in it."""
    return name == package or name.startswith(package + ".")


@functools.cache
def parsed(source: str) -> ast.Module:
    """Return the tree of a source, which several rules read."""
    return ast.parse(source)


def import_faults(module: str, source: str, *, is_package: bool = False) -> list[str]:
    """Return what the imports of `module`, a dotted name such as `pliant.nn.deform_conv`, do against DESIGN.md."""
    tree = parsed(source)
    names = list(imported(tree, module if is_package else module.rpartition(".")[0]))
    faults = []
    for line, name in names:
        if within(name, "pliant"):
            faults += [f"{module}:{line} {fault}" for fault in layer_faults(module, name)]
    for line, name in [*names, *dotted_uses(tree)]:
        for limited, allowed in OUTSIDE.items():
            if within(name, limited) and not any(within(module, package) for package in allowed):
                faults.append(f"{module}:{line} uses {limited}, which only {allowed or 'no module'} may")
    return sorted(set(faults))


def layer_faults(module: str, name: str) -> list[str]:
    """Return the fault of an import of pliant's own `name` in `module`, if it is one."""
    layer, target = part(module), part(name)
    if layer in {"", "__main__"} or target in {layer, "_version"}:
        return []  # the package's own page re-exports what it likes
    if layer not in LAYERS:
        return [f"is in {layer!r}, which the table Layers of DESIGN.md does not name"]
    if target not in LAYERS:
        return [f"imports {name}, the package's public page"]
    return [] if target in LAYERS[layer] else [f"imports {name}, but {layer!r} may import {sorted(LAYERS[layer])}"]


def part(name: str) -> str:
    """Return the second part of a dotted name, which is the layer of what lies in pliant, or an empty string."""
    return [*name.split("."), ""][1]


def line_faults(name: str, source: str) -> list[str]:
    """Return what any source file does against the rules: its length, its licence line, reminders without an anchor."""
    lines = source.splitlines()
    faults = [f"{name} has {len(lines)} lines, more than {MAX_LINES}"] if len(lines) > MAX_LINES else []
    head = lines[1] if lines and lines[0].startswith("#!") and len(lines) > 1 else (lines[0] if lines else "")
    if SPDX not in head:
        faults.append(f"{name} does not open with {SPDX}")
    faults += [f"{name}:{i} reminder without an anchor" for i, text in enumerate(lines, 1) if REMINDER.search(text)]
    return faults


def function_faults(name: str, source: str) -> list[str]:
    """Return the public functions and classes without a docstring, and the functions which are too long."""
    faults = []
    tree = parsed(source)
    if not ast.get_docstring(tree):
        faults.append(f"{name} has no module docstring")
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = body_lines(node)
            if length > MAX_FUNCTION_LINES:
                faults.append(f"{name}:{node.lineno} {node.name} has {length} lines, more than {MAX_FUNCTION_LINES}")
    bare = [node for node in public_definitions(tree) if not ast.get_docstring(node)]
    return faults + [f"{name}:{node.lineno} {node.name} is public and has no docstring" for node in bare]


def parameter_faults(name: str, source: str) -> list[str]:
    """Return the public functions and methods with too many parameters."""
    faults = []
    for node in ast.walk(parsed(source)):
        if isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name == "__init__"):
            given = node.args
            every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
            count = len([arg for arg in every if arg is not None and arg.arg not in UNCOUNTED])
            if count > MAX_PARAMETERS:
                faults.append(f"{name}:{node.lineno} {node.name} has {count} parameters, more than {MAX_PARAMETERS}")
    return faults


def shadowed_modules(package: str, source: str, modules: set[str]) -> list[str]:
    """Return the names that a package's page takes from its modules and that are names of such modules as well."""
    tree = parsed(source)
    taken = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module != package]
    names = [alias.asname or alias.name for node in taken for alias in node.names]
    return [name for name in names if name in modules]


def offered(source: str) -> list[str]:
    """Return the names in a module's `__all__`, none where there is no such list."""
    lists = [
        n.value for n in parsed(source).body if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) == "__all__"
    ]
    return [str(name) for found in lists for name in ast.literal_eval(found)]


def body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function's statements, its signature and docstring not counted."""
    body = node.body[1:] if ast.get_docstring(node) else node.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def public_definitions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """Yield the functions and classes of a module's top level whose names are public."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node


def dotted(path: Path) -> str:
    """Return the dotted name of a file below src."""
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources(*patterns: str) -> list[Path]:
    """Return the tracked kinds of source files in their folders."""
    return sorted(p for pattern in patterns for p in ROOT.glob(pattern) if "__pycache__" not in p.parts)


PYTHON = sources("src/**/*.py")
NATIVE = sources("src/**/*.cpp", "src/**/*.h", "tests/**/*.cpp", "tests/**/*.h")
ALL = (
    PYTHON
    + NATIVE
    + sources(
        "tests/**/*.py",
        "benchmarks/**/*.py",
        "release/**/*.py",
        "release/**/*.cmake",
        "CMakeLists.txt",
        "Makefile",
        ".ci/*",
    )
)


def name_of(path: Path) -> str:
    """Return the path as it stands in the repository."""
    return path.relative_to(ROOT).as_posix()


def text_of(path: Path) -> str:
    """Return what a file holds."""
    return path.read_text(encoding="utf-8")


# Each rule is one test, which lists what all files do against it.


def test_imports_follow_design() -> None:
    assert len(PYTHON) > 100
    found = [import_faults(dotted(path), text_of(path), is_package=path.name == "__init__.py") for path in PYTHON]
    assert "\n".join(itertools.chain.from_iterable(found)) == ""


def test_every_file_keeps_the_rules() -> None:
    assert len(ALL) > len(PYTHON) + len(NATIVE) > 100
    assert "\n".join(fault for path in ALL for fault in line_faults(name_of(path), text_of(path))) == ""


def test_functions_are_short_and_documented() -> None:
    assert "\n".join(fault for path in PYTHON for fault in function_faults(name_of(path), text_of(path))) == ""


PUBLIC = [path for path in PYTHON if not any(part.startswith("_") for part in dotted(path).split("."))]
PACKAGES = [path for path in PYTHON if path.name == "__init__.py"]


def test_public_functions_take_few_parameters() -> None:
    assert len(PUBLIC) > 50
    assert "\n".join(fault for path in PUBLIC for fault in parameter_faults(name_of(path), text_of(path))) == ""


def test_no_module_is_named_like_a_public_name_of_its_package() -> None:
    """Else `from pliant.detection import rfcn` is a function or a module, whichever was imported last."""
    assert len(PACKAGES) > 10
    shadowed = {}
    for path in PACKAGES:
        modules = {p.stem for p in path.parent.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
        shadowed[dotted(path)] = shadowed_modules(dotted(path), text_of(path), modules)
    assert {package: names for package, names in shadowed.items() if names} == {}


def test_every_package_says_what_it_offers() -> None:
    assert [dotted(path) for path in PACKAGES if not offered(text_of(path))] == []
    assert offered("from p import x\n__all__ = ['x', 'y']") == ["x", "y"]
    assert offered("from p import x\nNAMES = ['x']\n__all__ = []") == []


def test_layers_point_downwards_and_name_what_exists() -> None:
    names = list(LAYERS)
    assert len(names) >= 12
    for i, layer in enumerate(names):
        assert LAYERS[layer] <= set(names[i + 1 :]), f"{layer} imports a layer which does not stand below it"
        assert (PACKAGE / layer).is_dir() or (PACKAGE / f"{layer}.py").is_file(), f"DESIGN.md names {layer}"


def test_every_layer_is_in_the_table() -> None:
    present = {p.stem for p in PACKAGE.iterdir() if (p.is_dir() and any(p.glob("*.py"))) or p.suffix == ".py"}
    assert present - {"__init__", "__main__", "_version"} == set(LAYERS)


@pytest.mark.parametrize(
    ("module", "source", "fault"),
    [
        ("pliant.nn.x", "import pliant.surgery", "pliant.nn.x:1 imports pliant.surgery, but 'nn' may import"),
        ("pliant.ops.x", "def f():\n    from pliant.nn import DeformConv2d", "pliant.ops.x:2 imports pliant.nn.Def"),
        ("pliant._check", "from pliant import _geometry", "pliant._check:1 imports pliant._geometry, but '_check'"),
        ("pliant.surgery.x", "from pliant import convert", "imports pliant.convert, the package's public page"),
        ("pliant.surgery.x", "import pliant", "imports pliant, the package's public page"),
        ("pliant.nn.x", "from ..surgery import plan", "pliant.nn.x:1 imports pliant.surgery.plan, but 'nn' may"),
        ("pliant._check", "from . import nn", "pliant._check:1 imports pliant.nn, but '_check' may import []"),
        ("pliant.unheard", "import torch\nimport pliant.nn", "pliant.unheard:2 is in 'unheard', which the table"),
        ("pliant.nn.x", "import ctypes", "pliant.nn.x:1 uses ctypes, which only ['pliant.ops._native'] may"),
        ("pliant.nn.x", "import triton.language as tl", "uses triton, which only"),
        ("pliant.nn.x", "import torch\ntorch.library.define('a', 'b')", "pliant.nn.x:2 uses torch.library"),
        ("pliant.nn.x", "from torch import library", "pliant.nn.x:1 uses torch.library"),
        (
            "pliant.surgery.x",
            "import importlib\nimportlib.import_module('timm.layers')",
            "pliant.surgery.x:2 uses timm",
        ),
        ("pliant.ops._native_fake.x", "import ctypes", "uses ctypes"),
        ("pliant.cli.x", "m = require_package('timm', 'train', 'this')", "pliant.cli.x:1 uses timm"),
    ],
)
def test_import_faults_are_found(module: str, source: str, fault: str) -> None:
    found = import_faults(module, source)
    assert len(found) == 1
    assert fault in found[0]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("pliant", "from pliant.surgery import convert as convert"),
        ("pliant.surgery.x", "from pliant.surgery.plan import Plan\nfrom pliant import nn"),
        ("pliant.ops._native.library", "import ctypes"),
        ("pliant.nn.x", "import torch\nfrom torch import Tensor"),
        ("pliant.nn.x", "from .deform_conv import DeformConv2d\nfrom ..ops import deform_conv2d"),
        ("pliant.cli.x", "from pliant._version import __version__"),
        ("pliant.cli.x", "require_package('timm', 'train', 'this')"),
    ],
)
def test_allowed_imports_pass(module: str, source: str) -> None:
    assert import_faults(module, source) == []


def test_relative_import_of_a_package_starts_in_the_package() -> None:
    assert import_faults("pliant.nn", "from ._x import y", is_package=True) == []
    assert import_faults("pliant.nn", "from ._x import y") == [
        "pliant.nn:1 imports pliant._x.y, the package's public page"
    ]


def test_line_faults_are_found() -> None:
    first = f"# {SPDX}\n"
    assert line_faults("a.py", first + "x = 1\n" * 399) == []
    assert line_faults("a.py", first + "x = 1\n" * 400) == ["a.py has 401 lines, more than 400"]
    assert line_faults("a.py", "x = 1\n") == [f"a.py does not open with {SPDX}"]
    assert line_faults("a.py", "") == [f"a.py does not open with {SPDX}"]
    assert line_faults("run", f"#!/bin/bash\n{first}") == []
    late = "TO" + "DO"
    assert line_faults("a.py", first + f"# {late}: later\n") == ["a.py:2 reminder without an anchor"]
    assert line_faults("a.py", first + f"# {late}(#12): later\n") == []


def test_function_faults_are_found() -> None:
    long = 'def _f(a):\n    """Say."""\n' + "    a += 1\n" * 61
    assert function_faults("a.py", f'"""m"""\n{long}') == ["a.py:2 _f has 61 lines, more than 60"]
    assert function_faults("a.py", '"""m"""\ndef f(): pass\n') == ["a.py:2 f is public and has no docstring"]
    assert function_faults("a.py", '"""m"""\nclass C: pass\n') == ["a.py:2 C is public and has no docstring"]
    assert function_faults("a.py", "def _f(): pass\n") == ["a.py has no module docstring"]


def test_parameter_faults_are_found() -> None:
    twelve = ", ".join(f"a{k}" for k in range(12))
    assert parameter_faults("a.py", f"def f({twelve}): pass\ndef _f({twelve}, b): pass") == []
    assert parameter_faults("a.py", f"class C:\n    def __init__(self, {twelve}, *, device=None): pass") == []
    assert parameter_faults("a.py", f"def f({twelve}, **more): pass") == ["a.py:1 f has 13 parameters, more than 12"]
    assert parameter_faults("a.py", f"class C:\n    def g(self, {twelve}, *, b): pass") == [
        "a.py:2 g has 13 parameters, more than 12"
    ]


def test_shadowed_modules_are_found() -> None:
    assert shadowed_modules("p", "from p.rfcn import rfcn\nfrom p.x import y", {"rfcn", "x"}) == ["rfcn"]
    assert shadowed_modules("p", "from p.x import y as x", {"x"}) == ["x"]
    assert shadowed_modules("p", "from p import x\nimport p.x", {"x"}) == []


def test_tables_are_read_as_written() -> None:
    rows = "| p | w | m |\n|---|---|---|\n| `pliant.a` | x | `b`, `c` |\n| `pliant.b` | x | nothing |\n"
    text = f"# D\n\n## Layers\n\n{rows}\n## Z\n"
    assert layers(text) == {"a": {"b", "c"}, "b": set()}
    assert OUTSIDE["ctypes"] == ["pliant.ops._native"]
    assert OUTSIDE["triton"] == ["pliant.ops"]
