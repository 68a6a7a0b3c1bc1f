# SPDX-License-Identifier: Apache-2.0
"""What must not happen in a long run: a crash, another answer the second time, memory that grows, a second pool."""

from __future__ import annotations

import sys

import pytest
import torch

from helpers.convolution.cases import BY_NAME, Case
from helpers.convolution.checks import Implementation, run
from helpers.fresh import output_of

CRASHER = """
import sys, torch
from pliant.ops import deform_conv2d
dtype = getattr(torch, sys.argv[1])
nan, inf = float("nan"), float("inf")
far = [nan, inf, -inf, 1e30, -1e30, 2.0**31, -2.0**31, 2.0**63, -2.0**63, 1e-40, 3.4e38, -1.0, 63.0]
for groups in (1, 4, 8):
    x = torch.randn(2, 8, 63, 65, dtype=dtype, requires_grad=True)
    w = torch.randn(8, 8 // groups, 3, 3, dtype=dtype, requires_grad=True)
    for value in far:
        offset = torch.randn(2, 18, 63, 65)
        offset.view(-1)[::3] = value
        offset = offset.to(dtype).requires_grad_()
        mask = torch.rand(2, 9, 63, 65, dtype=dtype, requires_grad=True)
        y = deform_conv2d(x, offset, w, padding=1, mask=mask)
        found = torch.autograd.grad(y.float().square().sum(), [x, offset, w, mask])
        assert all(t.isfinite().all() for t in (y, *found)), value
        broken = ~offset.isfinite().view(2, 9, 2, 63, 65).all(2)
        if broken.any():
            assert not found[3][broken].any() and not found[1].view(2, 9, 2, 63, 65).movedim(2, -1)[broken].any()
print("survived")
"""


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_no_offset_crashes_the_process(dtype: str) -> None:
    """One NaN in the offsets kills a process that calls torchvision's kernel."""
    assert output_of(CRASHER, dtype) == "survived"


MEMORY = """
import sys, torch
from pathlib import Path
from pliant.ops import deform_conv2d
torch.set_num_threads(2)
shape, train = eval(sys.argv[1]), sys.argv[2] == "True"
layout, dtype = getattr(torch, sys.argv[3]), getattr(torch, sys.argv[4])
N, C, H, W, O, groups = shape
x = torch.randn(N, C, H, W).to(dtype).contiguous(memory_format=layout).requires_grad_(train)
w = torch.randn(O, C // groups, 3, 3).to(dtype).requires_grad_(train)
offset = torch.randn(N, 18, H, W).to(dtype).requires_grad_(train)
mask = torch.rand(N, 9, H, W).to(dtype).requires_grad_(train)

def status(key):
    line = next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(key))
    return int(line.split()[1]) * 1024

def call(x, offset, w, mask, u):
    y = deform_conv2d(x, offset, w, padding=1, mask=mask, impl=sys.argv[5])
    grads = torch.autograd.grad(y, [x, offset, w, mask], u) if train else ()
    return sum(t.numel() * t.element_size() for t in (y, *grads))

small = [t.detach()[..., :9, :9].contiguous(memory_format=layout).requires_grad_(train) for t in (x, offset, mask)]
call(small[0], small[1], w, small[2], torch.ones(N, O, 9, 9, dtype=dtype))  # loads libraries, starts threads
u = torch.ones(N, O, H, W, dtype=dtype).contiguous(memory_format=layout) if train else None
Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
before = status("VmRSS")
result = call(x, offset, w, mask, u)
print((status("VmHWM") - before - result) / 2**20)
"""

LARGE = [
    ((1, 256, 160, 160, 128, 1), "contiguous_format", "float32"),
    ((1, 256, 160, 160, 128, 1), "channels_last", "float32"),
    ((1, 256, 160, 160, 128, 1), "channels_last", "bfloat16"),
    ((1, 256, 192, 192, 256, 256), "contiguous_format", "float32"),
    ((1, 16, 640, 640, 16, 1), "contiguous_format", "float32"),
    ((1, 64, 320, 400, 32, 1), "channels_last", "float32"),
]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("shape", "layout", "dtype"), LARGE)
@pytest.mark.parametrize(("train", "limit"), [(False, 64), (True, 128)], ids=["forward", "forward_and_backward"])
def test_memory_beyond_the_result(
    native: Implementation, shape: tuple[int, ...], layout: str, dtype: str, train: bool, limit: int
) -> None:
    """The columns of these would take 225 MB and more; the peak of a fresh process says what was taken."""
    n, channels, height, width, *_ = shape
    columns = n * channels * 9 * height * width * (2 if dtype == "bfloat16" else 4) / 2**20
    assert columns > limit + 50 - 75 * (dtype == "bfloat16"), "this case could not fail"
    beyond = float(output_of(MEMORY, repr(shape), str(train), layout, dtype, "native"))
    assert beyond < limit, f"{beyond:.0f} MB beyond the result, limit {limit}, columns {columns:.0f}"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_measurement_of_memory_sees_columns() -> None:
    """The reference holds all samples: this is what the limits above are against."""
    arguments = (repr((1, 64, 96, 96, 16, 1)), "False", "contiguous_format", "float32", "reference")
    assert float(output_of(MEMORY, *arguments)) > 64 * 9 * 96 * 96 * 4 / 2**20


LARGER = Case("larger", 2, 130, (29, 31), 24, (3, 3), padding=(1, 1), offset_groups=2)
DEPTHWISE = Case("larger_depthwise", 2, 130, (29, 31), 130, (3, 3), padding=(1, 1), groups=130, offset_groups=2)
RAGGED = Case("ragged_units", 3, 204, (6, 7), 10, (3, 2), padding=(1, 1), groups=2, offset_groups=3)
MANY = Case("more_units_than_a_task_has", 1, 832, (5, 6), 5, (2, 3), padding=(1, 1), offset_groups=2)
GROUPED = Case("larger_grouped", 2, 128, (29, 31), 32, (3, 3), padding=(1, 1), groups=4, offset_groups=2)


def all_results(implementation: Implementation, case: Case, threads: int) -> list[torch.Tensor]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    output, gradients = run(implementation, case.arguments(torch.float32), case.upstream(torch.float32))
    torch.set_num_threads(before)
    return [output, *(gradients[name] for name in sorted(gradients))]


@pytest.mark.parametrize("case", [LARGER, DEPTHWISE, GROUPED])
def test_same_bits_every_time(native: Implementation, case: Case, threads: int) -> None:
    first = all_results(native, case, threads)
    for _ in range(3):
        for a, b in zip(first, all_results(native, case, threads), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("case", [LARGER, DEPTHWISE, RAGGED, MANY, GROUPED, BY_NAME["asymmetric"], BY_NAME["far"]])
@pytest.mark.parametrize("asked", [False, True])
def test_same_bits_for_any_number_of_threads(
    native: Implementation, request: pytest.FixtureRequest, case: Case, asked: bool
) -> None:
    """Asked for deterministic algorithms PyTorch fills fresh memory with NaN, which shows what is never written."""
    if asked:
        request.getfixturevalue("deterministic")
    one, *others = (all_results(native, case, threads) for threads in (1, 2, 3, 7))
    assert all(bool(t.isfinite().all()) for t in one)
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_deterministic_algorithms_leave_the_number_of_threads_alone(
    native: Implementation, deterministic: None
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    run(native, LARGER.arguments(), LARGER.upstream())
    after = torch.get_num_threads()
    torch.set_num_threads(before)
    assert after == 2


POOL = """
import threading, torch
from pliant.ops import deform_conv2d
torch.set_num_threads(2)
x, w = torch.randn(2, 64, 40, 40, requires_grad=True), torch.randn(64, 64, 3, 3)
torch.nn.functional.conv2d(x, w).sum().backward()
def threads():
    return sum(line.startswith("Threads:") and int(line.split()[1]) for line in open("/proc/self/status"))
before = threads()
for _ in range(3):
    deform_conv2d(x, torch.randn(2, 18, 40, 40), w, padding=1, impl="native").sum().backward()
mapped = {line.split()[-1] for line in open("/proc/self/maps") if "/" in line}
names = sorted(path.rsplit("/", 1)[1] for path in mapped)
runtimes = [name for name in names if name.startswith(("libgomp", "libomp", "libiomp"))]
print(len(runtimes), threads() - before, *runtimes)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_one_pool_of_threads(native: Implementation) -> None:
    """Two OpenMP runtimes in a process fight for the cores; the library uses the one that PyTorch loaded."""
    runtimes, more_threads, *names = output_of(POOL).split()
    assert (runtimes, more_threads) == ("1", "0"), names


LEAK = """
import resource, torch
from pliant.ops import deform_conv2d
x, w = torch.randn(1, 32, 48, 48, requires_grad=True), torch.randn(32, 32, 3, 3)
offset = torch.randn(1, 18, 48, 48)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
for i in range(60):
    deform_conv2d(x, offset, w, padding=1).sum().backward()
    if i == 20:
        early = peak()
print(peak() - early)
"""


def test_memory_does_not_grow_from_call_to_call() -> None:
    assert int(output_of(LEAK)) < 8
