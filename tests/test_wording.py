# SPDX-License-Identifier: Apache-2.0
"""The grammar of what pliant says: no "got it", no "1 things", a shape called a shape."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "pliant"
# What pliant counts. After a number that may be 1 they need `counted`.
COUNTED = re.compile(
    r"^ (images|boxes|steps|tensors|categories|classes|channels|batches|processes|masks|objects|detections|problems)\b"
)
QUAINT = re.compile(
    r"\bgot it\b|\bis not to be had\b|\bnothing else is bent\b|\bcannot be had\b|\bkeeps the others company\b"
)


def texts(source: str) -> Iterator[tuple[int, list[ast.expr]]]:
    """Yield line and parts of each text that is put together or plain."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, node.values
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, [node]


def is_call(node: ast.expr, name: str) -> bool:
    return isinstance(node, ast.Call) and getattr(node.func, "id", "") == name


def is_shape(node: ast.expr) -> bool:
    """Return whether `node` is `x.shape`, `tuple(x.shape)`, or a part of one."""
    inner = node.args[0] if isinstance(node, ast.Call) and is_call(node, "tuple") and node.args else node
    inner = inner.value if isinstance(inner, ast.Subscript) else inner
    return isinstance(inner, ast.Attribute) and inner.attr == "shape"


def wording_faults(name: str, source: str) -> list[str]:
    """Return what the texts of a module do against the grammar."""
    faults = []
    for line, parts in texts(source):
        plain = "".join(part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str))
        faults += [f"{name}:{line} says {match[0]!r}" for match in QUAINT.finditer(plain)]
        for before, part, after in zip([None, *parts], parts, [*parts[1:], None], strict=False):
            if not isinstance(part, ast.FormattedValue):
                continue
            following = after.value if isinstance(after, ast.Constant) else ""
            noun = COUNTED.match(following)
            if noun and not is_call(part.value, "counted"):
                faults.append(f"{name}:{line} may say '1{noun[0]}'; use counted")
            leading = before.value if isinstance(before, ast.Constant) else ""
            if is_shape(part.value) and not re.search(r"shapes? $|shapes? .* (and|for|beside) $", leading):
                faults.append(f"{name}:{line} shows a shape without the word")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and is_call(node, "fail"):
            faults += [f"{name}:{arg.lineno} shows a shape without the word" for arg in node.args[2:3] if is_shape(arg)]
    return faults


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_texts_keep_the_grammar(path: Path) -> None:
    assert "\n".join(wording_faults(path.name, path.read_text(encoding="utf-8"))) == ""


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("fail('a', 'must be', f'it with {b}', 'got it')", "a.py:1 says 'got it'"),
        ("print(f'{n} images')", "a.py:1 may say '1 images'; use counted"),
        ("fail('a', 'rule', tuple(x.shape), 'fix')", "a.py:1 shows a shape without the word"),
        ("fail('a', f'must be {tuple(x.shape)}', 1, 'fix')", "a.py:1 shows a shape without the word"),
    ],
)
def test_wording_faults_are_found(line: str, fault: str) -> None:
    assert wording_faults("a.py", line) == [fault]


@pytest.mark.parametrize(
    "line",
    [
        "fail('a', 'rule', f'shape {tuple(x.shape)}', 'fix')",
        "print(f'{counted(n, \"image\")} of {name}')",
        "print(f'{name} boxed')",
    ],
)
def test_good_wording_passes(line: str) -> None:
    assert wording_faults("a.py", line) == []
