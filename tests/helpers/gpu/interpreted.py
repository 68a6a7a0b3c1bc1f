# SPDX-License-Identifier: Apache-2.0
"""Run as a program: the Triton kernels in Triton's interpreter, on the CPU, against the float64 loops.

`TRITON_INTERPRET=1` must be set before Triton is imported, and a kernel that reads where it must not kills the process;
hence a process of its own. It prints a line of JSON for each check: what was checked, and how it failed or "".

    TRITON_INTERPRET=1 python -m helpers.gpu.interpreted values     (or: mutants, dispatcher)
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from triton.runtime.errors import OutOfResources

from helpers.canary import guarded_memory
from helpers.convolution.checks import DIFFERENTIABLE, check_forward_backward
from helpers.convolution.checks import run as run_all
from helpers.gpu.interpreter_cases import DEPTHWISE, MUTANTS, ODD, RUNS, SLICED, V2, Mutant, Run
from helpers.gpu.mutated import mutated_kernels
from helpers.gpu.quick_interpreter import make_quick
from helpers.versions import replace_kernel
from pliant._geometry import ConvGeometry
from pliant.ops import _triton, deform_conv2d
from pliant.ops._deform_conv2d import gpu_backward, gpu_forward, gpu_plan, gpu_tiles, gpu_tune

OPERATOR = torch.ops.pliant.deform_conv2d


def take_cpu_tensors() -> torch.library.Library:
    """Let the GPU path run the operator on CPU tensors, while the library that is returned lives."""

    def forward(x: Tensor, o: Tensor, w: Tensor, b: Tensor | None, s: Any, p: Any, d: Any, m: Tensor | None) -> Tensor:
        return gpu_forward.deform_conv2d_triton(x, o, w, b, ConvGeometry(tuple(s), tuple(p), tuple(d)), m)

    def backward(
        u: Tensor, x: Tensor, o: Tensor, w: Tensor, s: Any, p: Any, d: Any, m: Tensor | None, needed: list[bool]
    ) -> tuple[Tensor, ...]:
        geometry = ConvGeometry(tuple(s), tuple(p), tuple(d))
        return gpu_backward.deform_conv2d_triton_backward(u, x, o, w, geometry, m, needed)

    library = torch.library.Library("pliant", "IMPL")
    replace_kernel(library, "deform_conv2d", forward)
    replace_kernel(library, "deform_conv2d_backward", backward)
    return library


@contextlib.contextmanager
def settings(run: Run) -> Iterator[None]:
    """Choose the path that a run is about."""
    with contextlib.ExitStack() as stack:
        # Few programs, which cost the interpreter more than wide ones.
        stack.enter_context(mock.patch.object(gpu_tiles, "SAMPLES", gpu_tiles.SampleTile(64, 16, 4)))
        if run.sorts:
            torch.use_deterministic_algorithms(True)
            stack.callback(torch.use_deterministic_algorithms, False)
        if run.workspace is not None:
            stack.enter_context(mock.patch.multiple(gpu_plan, WORKSPACE_BYTES=run.workspace, SORTED_BYTES=0))
            stack.enter_context(mock.patch.multiple(gpu_plan, LEAST_WIDTH=run.width, LEAST_POSITIONS=7))
        if run.wide:
            stack.enter_context(mock.patch.object(_triton, "LARGEST_INT32", 0))
        if run.patch:
            tile = gpu_tiles.Tile(32, 16, 16, 4, 2, patch=run.patch)
            stack.enter_context(mock.patch.object(gpu_forward, "fused_tile", return_value=tile))
            stack.enter_context(mock.patch.object(gpu_forward, "elementwise_tile", return_value=tile))
        yield


def check(run: Run) -> None:
    """Assert that output and gradients are right, and that nothing was written beside them."""
    with settings(run), guarded_memory() as guard:
        check_forward_backward(OPERATOR, run.case, run.dtype)
    guard.assert_whole()


def check_mutant(mutant: Mutant) -> None:
    """Assert that a wrong kernel does not pass."""
    with mutated_kernels(mutant.file, mutant.old, mutant.new):
        try:
            check(mutant.run)
        except AssertionError:
            return
    raise AssertionError("the mutant was not noticed")


def check_opcheck() -> None:
    """Assert that PyTorch's own checks of an operator hold for the kernels too."""
    arguments = V2.arguments(torch.float32)
    leaves = {n: t.detach().requires_grad_() for n in DIFFERENTIABLE if (t := getattr(arguments, n)) is not None}
    warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
    found = torch.library.opcheck(OPERATOR.default, tuple(arguments._replace(**leaves)))
    assert set(found.values()) == {"SUCCESS"}, found


def check_compile() -> None:
    """Assert that one graph holds the operator, and that its numbers are the kernels'."""
    compiled = torch.compile(functools.partial(deform_conv2d, impl="triton"), fullgraph=True, backend="aot_eager")
    check_forward_backward(compiled, V2, torch.float32)


def check_autocast() -> None:
    """Assert that autocast casts what is multiplied, and not the offset."""
    arguments = V2.arguments(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = deform_conv2d(*arguments, impl="triton")
    assert output.dtype == torch.bfloat16
    low = V2.arguments(torch.bfloat16)._replace(offset=arguments.offset)
    assert torch.equal(output, deform_conv2d(*low, impl="triton"))


def check_determinism() -> None:
    """Assert that chunks and slices decide nothing but memory where determinism is asked for."""
    case = SLICED
    with settings(Run(case, sorts=True)):
        _, whole = run_all(OPERATOR, case.arguments(torch.float32), case.upstream(torch.float32))
        _, again = run_all(OPERATOR, case.arguments(torch.float32), case.upstream(torch.float32))
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def check_only_needed() -> None:
    """Assert that each gradient is the same for every subset of them, and that nothing else is returned."""
    for case in (ODD, DEPTHWISE):
        a, upstream = case.arguments(), case.upstream()
        _, everything = run_all(OPERATOR, a, upstream)
        backward = torch.ops.pliant.deform_conv2d_backward
        names = DIFFERENTIABLE[: 4 + (a.mask is not None)]
        for needed in itertools.product([False, True], repeat=len(names)):
            wanted = [*needed, False][:5]
            found = backward(upstream, a.input, a.offset, a.weight, a.stride, a.padding, a.dilation, a.mask, wanted)
            for name, gradient, need in zip(names, found, needed, strict=False):
                if need and name in everything:
                    expected = everything[name]
                    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-12, msg=f"{case.name}: {name}")
                assert need or gradient.numel() == 0, f"{case.name}: {name} in {needed}"


def check_empty() -> None:
    """Assert that a batch of no images gives results of no images, and zero for the weights."""
    case = dataclasses.replace(ODD, n=1)
    arguments = case.arguments(torch.float32)
    none = arguments._replace(**{n: getattr(arguments, n)[:0] for n in ("input", "offset", "mask")})
    output, gradients = run_all(OPERATOR, none, case.upstream(torch.float32)[:0])
    assert output.shape == (0, *case.upstream().shape[1:])
    assert gradients["input"].shape[0] == 0
    assert not gradients["weight"].any()
    assert not gradients["bias"].any()


def check_tune() -> None:
    """Assert that the fastest of the tiles is taken from then on, and no other before."""
    a = V2.arguments(torch.float32)
    call = (a.input, a.offset, a.weight, a.bias, ConvGeometry(a.stride, a.padding, a.dilation), a.mask)
    expected, used = gpu_forward.deform_conv2d_triton(*call), []
    slow = iter([5.0, None, 1.0, *[9.0] * 20])
    launch = _triton.launch

    def timer(run: Callable[[], object]) -> float:
        run()
        if (milliseconds := next(slow)) is None:
            raise OutOfResources(99, 9, "shared memory")
        return milliseconds

    def spy(*arguments: Any, **options: Any) -> None:
        used.append((options["num_stages"], options["PATCH"]))
        launch(*arguments, **options)

    with mock.patch.object(_triton, "launch", spy), mock.patch.object(gpu_tiles, "_tuned", {}):
        gpu_forward.deform_conv2d_triton(*call)
        times = gpu_tune.tune_deform_conv2d(*call, timer=timer)
        tuned = gpu_forward.deform_conv2d_triton(*call)
    assert used[0] == (2, 0)
    assert len(used) == len(times) + 3, "the second candidate needs more memory than there is"
    assert used[-1] == (3, 0), "the third candidate, which has three stages, was timed to be the fastest"
    torch.testing.assert_close(tuned, expected, rtol=1e-6, atol=1e-6)


def checks(job: str) -> dict[str, Callable[[], None]]:
    """Return the checks of a job by name."""
    if job == "values":
        return {run.name: functools.partial(check, run) for run in RUNS}
    if job == "mutants":
        return {mutant.name: functools.partial(check_mutant, mutant) for mutant in MUTANTS}
    found = (
        check_opcheck,
        check_compile,
        check_autocast,
        check_determinism,
        check_only_needed,
        check_empty,
        check_tune,
    )
    return {f.__name__.removeprefix("check_"): f for f in found}


def runs_anywhere(device: torch.device) -> None:
    """Say that Triton runs on any device, in the place of `why_not`."""


def main() -> None:
    make_quick()
    library = take_cpu_tensors()
    mock.patch.object(_triton, "why_not", runs_anywhere).start()
    for name, function in checks(sys.argv[1]).items():
        begin, problem = time.perf_counter(), ""
        try:
            function()
        except AssertionError as error:
            problem = str(error) or "assertion failed"
        print(json.dumps({"name": name, "problem": problem, "seconds": time.perf_counter() - begin}), flush=True)
    del library


if __name__ == "__main__":
    main()
