# SPDX-License-Identifier: Apache-2.0
"""The RoI operators as PyTorch's compilers see them: schema, shapes without data, whole graphs."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses.fake_tensor import FakeTensorMode

from helpers.pooling.cases import BY_NAME, RoIArguments, RoICase
from helpers.pooling.checks import attributes_of, check_forward_backward, run
from helpers.versions import ignores_cache
from pliant.ops import deform_ps_roi_pool, deform_roi_pool

# opcheck itself asks tensors inside the graph for their gradient.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")

NAMES = ("adaptive", "roi_align", "mask_alone", "channels_last", "ps_asymmetric", "ps_no_trans")


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch.compiler.reset()


def operators(case: RoICase) -> tuple[Any, Any]:
    name = "deform_roi_pool" if case.operator == "plain" else "deform_ps_roi_pool"
    return getattr(torch.ops.pliant, name).default, getattr(torch.ops.pliant, f"{name}_backward").default


def test_schemas() -> None:
    """What kernels on every device are written against."""
    found = [str(op._schema) for name in ("plain_v1", "ps_v1") for op in operators(BY_NAME[name])]
    tensors = "Tensor input, Tensor rois, Tensor? offset, Tensor? mask"
    plain = "int[2] output_size, float spatial_scale, int sampling_ratio, float gamma"
    ps = (
        "int[2] output_size, int output_channels, int group_size, int[2] part_size, int samples_per_bin, "
        "float spatial_scale, float gamma"
    )
    assert found == [
        f"pliant::deform_roi_pool({tensors}, {plain}) -> Tensor",
        f"pliant::deform_roi_pool_backward(Tensor grad, {tensors}, {plain}, bool[4] needed) "
        "-> (Tensor, Tensor, Tensor, Tensor)",
        f"pliant::deform_ps_roi_pool({tensors}, {ps}) -> Tensor",
        f"pliant::deform_ps_roi_pool_backward(Tensor grad, {tensors}, {ps}, bool[3] needed) "
        "-> (Tensor, Tensor, Tensor)",
    ]


@pytest.mark.parametrize("name", NAMES)
def test_opcheck_forward(name: str) -> None:
    case = BY_NAME[name]
    arguments = case.arguments()
    leaves = {n: getattr(arguments, n).detach().requires_grad_() for n in case.differentiable}
    found = torch.library.opcheck(operators(case)[0], (*arguments._replace(**leaves), *attributes_of(case)))
    assert set(found.values()) == {"SUCCESS"}
    assert len(found) >= 4


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("differentiable", [False, True], ids=["first_order", "second_order"])
def test_opcheck_backward(name: str, differentiable: bool) -> None:
    """With unknown sizes for the kernel alone: tracing the second order so takes PyTorch minutes for each case."""
    case = BY_NAME[name]
    arguments = case.arguments()
    names = ("input", "boxes", "offset", "mask") if case.operator == "plain" else ("input", "offset", "mask")
    needed = [n in case.differentiable for n in names]
    leaves = {n: getattr(arguments, n).detach().requires_grad_(differentiable) for n in case.differentiable}
    checks = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if not differentiable:
        checks.append("test_aot_dispatch_dynamic")
    call = (case.upstream(), *arguments._replace(**leaves), *attributes_of(case), needed)
    assert torch.library.opcheck(operators(case)[1], call, test_utils=checks) == dict.fromkeys(checks, "SUCCESS")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["asymmetric", "channels_last", "strided", "ps_asymmetric", "ps_channels_last"])
def test_fake_tensors_have_the_shapes_strides_and_types_of_real_ones(name: str, dtype: torch.dtype) -> None:
    case = BY_NAME[name]
    real, real_gradients = run(case, case.arguments(dtype), case.upstream(dtype), impl="auto")
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fakes = RoIArguments(*(None if t is None else mode.from_tensor(t) for t in case.arguments(dtype)))  # type: ignore[arg-type]
        fake, fake_gradients = run(case, fakes, mode.from_tensor(case.upstream(dtype)), impl="auto")
    for what, f, r in [("output", fake, real), *((n, fake_gradients[n], g) for n, g in real_gradients.items())]:
        assert (f.shape, f.stride(), f.dtype) == (r.shape, r.stride(), r.dtype), what


def run_compiled(impl: str, dynamic: bool | None = None) -> Any:
    """Return `run` with the public function compiled to one graph."""

    def compiled_run(case: RoICase, arguments: RoIArguments, upstream: Tensor) -> Any:
        compiled = torch.compile(case.call, fullgraph=True, backend="aot_eager", dynamic=dynamic)
        leaves = {name: getattr(arguments, name).detach().requires_grad_() for name in case.differentiable}
        output = compiled(arguments._replace(**leaves), impl)
        gradients = torch.autograd.grad(output, list(leaves.values()), upstream)
        return output.detach(), dict(zip(leaves, gradients, strict=True))

    return compiled_run


@pytest.mark.parametrize("name", ["adaptive", "ps_asymmetric"])
def test_compiles_to_one_graph(roi_public: str, name: str) -> None:
    """A compiled reference looks at as many samples as any box can have: the adaptive case is a small one there."""
    case = BY_NAME[name]
    if case.samples == 0 and roi_public == "reference":
        case = replace(case, name="adaptive_small", size=(5, 4))
    check_forward_backward(run_compiled(roi_public), case)


@pytest.mark.parametrize("name", ["adaptive", "ps_asymmetric"])
def test_compiles_to_one_graph_of_unknown_size(name: str) -> None:
    check_forward_backward(run_compiled("auto", dynamic=True), BY_NAME[name])


def test_another_number_of_boxes_compiles_nothing_new() -> None:
    """In detection it changes with every picture."""
    counter = CompileCounterWithBackend("aot_eager")

    def pool(image: Tensor, boxes: Tensor, offset: Tensor) -> Tensor:
        aligned = deform_roi_pool(image, boxes, (2, 3), offset, sampling_ratio=2)
        return aligned + deform_ps_roi_pool(image, boxes, (2, 3), 10, offset)

    compiled = torch.compile(pool, fullgraph=True, backend=counter, dynamic=True)
    image = torch.randn(6, 10, 9, 11)  # no two sizes are equal by chance, or PyTorch takes them for the same for ever
    frames = []
    for count in (7, 8, 13):
        boxes = torch.cat([torch.zeros(count, 1), torch.rand(count, 2, 2).mul(9).sort(1)[0].flatten(1)], 1)
        offset = torch.randn(count, 2, 2, 3)
        torch.testing.assert_close(compiled(image, boxes, offset), pool(image, boxes, offset))
        frames.append(counter.frame_count)
    assert frames[1:] == frames[:1] * 2


@pytest.mark.slow
@ignores_cache
@pytest.mark.skipif(shutil.which("c++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("name", ["asymmetric", "ps_asymmetric"])
def test_inductor_trains_a_step(name: str) -> None:
    case = BY_NAME[name]

    def compiled_run(case: RoICase, arguments: RoIArguments, upstream: Tensor) -> Any:
        leaves = {n: getattr(arguments, n).detach().requires_grad_() for n in case.differentiable}
        output = torch.compile(case.call, fullgraph=True)(arguments._replace(**leaves), "auto")
        return output.detach(), dict(
            zip(leaves, torch.autograd.grad(output, list(leaves.values()), upstream), strict=True)
        )

    check_forward_backward(compiled_run, case, torch.float32)


class _Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Linear(4 * 6, 3 * 6)

    def forward(self, image: Tensor, boxes: Tensor) -> Tensor:
        plain = deform_roi_pool(image, boxes, (2, 3))
        found = self.offset(plain.flatten(1)).view(-1, 3, 2, 3)
        shifted = deform_roi_pool(image, boxes, (2, 3), found[:, :2], found[:, 2:].sigmoid())
        return shifted + deform_ps_roi_pool(image, boxes, (2, 3), 4, found[:, :2])


def test_export_keeps_the_operators_and_their_numbers() -> None:
    model, image = _Head().eval(), torch.randn(2, 4, 7, 6)
    boxes = torch.tensor([[0, 0.5, 0.25, 4.5, 5.25], [1, 1.5, 1.0, 5.0, 4.0], [0, 2.0, 0.5, 3.5, 3.0]])
    count = torch.export.Dim("count", min=2, max=900)
    exported = torch.export.export(model, (image, boxes), dynamic_shapes=({}, {0: count}))
    targets = [node.target for node in exported.graph.nodes if node.op == "call_function"]
    assert targets.count(torch.ops.pliant.deform_roi_pool.default) == 2
    assert torch.ops.pliant.deform_ps_roi_pool.default in targets
    more = torch.cat([boxes, boxes * 0.75 // 1])
    torch.testing.assert_close(exported.module()(image, more), model(image, more))
