# SPDX-License-Identifier: Apache-2.0
"""The operator as PyTorch's compilers see it: schema, shapes without data, whole graphs."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode

import pliant
from helpers.convolution.cases import BY_NAME, Case
from helpers.convolution.checks import DIFFERENTIABLE, Implementation, check_forward_backward, run
from helpers.versions import PYTORCH_2_6, ignores_cache, skip_reference_of_2_6
from pliant.ops import deform_conv2d

OPERATOR, BACKWARD = torch.ops.pliant.deform_conv2d, torch.ops.pliant.deform_conv2d_backward
CASES = [BY_NAME[name] for name in ("asymmetric", "asymmetric_v1", "depthwise", "channels_last", "strided", "far")]


# opcheck itself asks tensors inside the graph for their gradient.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch.compiler.reset()


@pytest.mark.parametrize("case", CASES)
def test_opcheck_forward(case: Case) -> None:
    arguments = case.arguments()
    leaves = {n: t.detach().requires_grad_() for n in DIFFERENTIABLE if (t := getattr(arguments, n)) is not None}
    found = torch.library.opcheck(OPERATOR.default, tuple(arguments._replace(**leaves)))
    assert set(found.values()) == {"SUCCESS"}
    assert len(found) >= 4


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("needed", [(True,) * 5, (False, True, False, False, True)], ids=["all", "offset_and_mask"])
@pytest.mark.parametrize("differentiable", [False, True], ids=["first_order", "second_order"])
def test_opcheck_backward(case: Case, needed: tuple[bool, ...], differentiable: bool) -> None:
    """With unknown sizes for the kernel alone: tracing the second order so takes PyTorch minutes for each case."""
    x, offset, weight, _, *geometry, mask = case.arguments()
    wanted = [*needed[:3], case.bias and needed[3], case.modulated and needed[4]]
    tensors = [t.detach().requires_grad_(differentiable) for t in (case.upstream(), x, offset, weight)]
    m = None if mask is None else mask.detach().requires_grad_(differentiable)
    checks = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if not differentiable:
        checks.append("test_aot_dispatch_dynamic")
    found = torch.library.opcheck(BACKWARD.default, (*tensors, *geometry, m, wanted), test_utils=checks)
    assert found == dict.fromkeys(checks, "SUCCESS")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["asymmetric", "channels_last", "strided"])
def test_fake_tensors_have_the_shapes_strides_and_types_of_real_ones(name: str, dtype: torch.dtype) -> None:
    case = BY_NAME[name]
    real, real_gradients = run(deform_conv2d, case.arguments(dtype), case.upstream(dtype))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        arguments = case.arguments(dtype)
        fakes = arguments._make(mode.from_tensor(a) if isinstance(a, Tensor) else a for a in arguments)
        fake, fake_gradients = run(deform_conv2d, fakes, mode.from_tensor(case.upstream(dtype)))
    for what, f, r in [("output", fake, real), *((n, fake_gradients[n], g) for n, g in real_gradients.items())]:
        assert (f.shape, f.stride(), f.dtype) == (r.shape, r.stride(), r.dtype), what


@pytest.mark.parametrize("name", ["asymmetric", "depthwise", "channels_last"])
def test_compiles_to_one_graph(implementation: Implementation, name: str) -> None:
    skip_reference_of_2_6(implementation.keywords["impl"])
    compiled = torch.compile(implementation, fullgraph=True, backend="aot_eager")
    check_forward_backward(compiled, BY_NAME[name])


@pytest.mark.parametrize("name", ["asymmetric", "depthwise", "channels_last"])
def test_compiles_to_one_graph_of_unknown_size(native: Implementation, name: str) -> None:
    compiled = torch.compile(native, fullgraph=True, backend="aot_eager", dynamic=True)
    check_forward_backward(compiled, BY_NAME[name])


def test_dynamic_shapes_compile_once() -> None:
    """No two sizes of the first call are equal by chance, or PyTorch takes them for the same size for ever."""
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(deform_conv2d, fullgraph=True, backend=counter, dynamic=True)
    for case in (
        Case("dynamic_1", 5, 4, (7, 10), 3, (3, 2), padding=(1, 1)),
        Case("dynamic_2", 6, 4, (9, 13), 3, (3, 2), padding=(1, 1)),
        Case("dynamic_3", 2, 4, (5, 8), 3, (3, 2), padding=(1, 1)),
    ):
        check_forward_backward(compiled, case)
    assert counter.frame_count == 1


@pytest.mark.slow
@ignores_cache
@pytest.mark.skipif(shutil.which("c++") is None, reason="inductor needs a C++ compiler")
def test_inductor_trains_a_step(implementation: Implementation) -> None:
    skip_reference_of_2_6(implementation.keywords["impl"])
    compiled = torch.compile(implementation, fullgraph=True)
    check_forward_backward(compiled, BY_NAME["asymmetric"], torch.float32)


@pytest.mark.parametrize("error_case", ["shape", "dtype"])
def test_wrong_arguments_are_refused_under_compile_too(error_case: str) -> None:
    arguments = BY_NAME["asymmetric"].arguments()
    wrong = {"shape": {"offset": arguments.offset[:, 1:]}, "dtype": {"input": arguments.input.int()}}[error_case]
    compiled = torch.compile(deform_conv2d, backend="aot_eager")
    with pytest.raises((ValueError, TypeError), match=next(iter(wrong))):
        compiled(*arguments._replace(**wrong))


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Conv2d(4, 27, 3, padding=1)
        self.weight = nn.Parameter(torch.randn(5, 4, 3, 3))

    def forward(self, x: Tensor) -> Tensor:
        prediction = self.offset(x)
        return deform_conv2d(x, prediction[:, :18], self.weight, padding=1, mask=prediction[:, 18:].sigmoid())


def test_export_keeps_the_operator_and_its_numbers() -> None:
    model, images = _Model().eval(), torch.randn(2, 4, 7, 6)
    least = 7 if PYTORCH_2_6 else 4  # 2.6 allows nothing smaller than the example where the image is padded
    batch, height = torch.export.Dim("batch", min=2, max=9), torch.export.Dim("height", min=least, max=50)
    exported = torch.export.export(model, (images,), dynamic_shapes=({0: batch, 2: height},))
    targets = [node.target for node in exported.graph.nodes if node.op == "call_function"]
    assert OPERATOR.default in targets
    other = torch.randn(3, 4, 11, 6)
    torch.testing.assert_close(exported.module()(other), model(other))


def unions_asked_for(source: str) -> list[int]:
    """Return the lines that ask `isinstance` for a union of types."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and len(node.args) == 2]
    asked = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "isinstance"]
    return [call.lineno for call in asked if isinstance(call.args[1], ast.BinOp)]


def test_what_is_traced_asks_for_no_union_of_types() -> None:
    """PyTorch 2.6 cannot trace it. Newer ones can, so that their tests of the compiler would not notice."""
    assert unions_asked_for("isinstance(a, int)\nisinstance(a, (int, str))\nisinstance(a, int | str)") == [3]
    package = Path(pliant.__file__).parent
    traced = [
        package / "_geometry.py",
        package / "_check.py",
        *(package / "ops").rglob("*.py"),
        *(package / "nn").rglob("*.py"),
    ]
    found = {str(path): unions_asked_for(path.read_text(encoding="utf-8")) for path in traced}
    assert len(found) > 40 and not any(found.values()), found
