# SPDX-License-Identifier: Apache-2.0
"""Run as a program: the pooling kernels in Triton's interpreter, on the CPU, against the float64 loops.

As interpreted.py does for the convolution; it prints a line of JSON for each check.

    TRITON_INTERPRET=1 python -m helpers.gpu.pooling_interpreted values     (or: mutants)
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import itertools
import json
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import torch

from helpers.gpu.pooling_cases import MUTANTS, RUNS, SUBSETS, Mutant, PoolRun
from helpers.gpu.quick_interpreter import make_quick
from helpers.pooling.checks import attributes_of, check_forward_backward, run
from helpers.versions import replace_kernel
from pliant.ops._deform_ps_roi_pool.contract import OPERATOR as PS
from pliant.ops._deform_roi_pool.contract import OPERATOR as PLAIN
from pliant.ops._pooling import gpu_pooling, triton_pooling

KERNELS = ("pool_bins", "sum_products", "scatter_gradient")


def take_cpu_tensors() -> torch.library.Library:
    """Let the GPU path run both operators on CPU tensors, while the library that is returned lives."""
    library = torch.library.Library("pliant", "IMPL")
    for operator in (PLAIN, PS):
        forward = functools.partial(operator.forward_by, gpu_pooling.GPU)
        backward = functools.partial(operator.backward_by, gpu_pooling.GPU)
        replace_kernel(library, operator.name, forward)
        replace_kernel(library, f"{operator.name}_backward", backward)
    return library


def check(pool_run: PoolRun) -> None:
    """Assert that output and gradients are right."""
    with contextlib.ExitStack() as stack:
        if pool_run.cut:
            stack.enter_context(mock.patch.multiple(gpu_pooling, WORKSPACE_BYTES=1, BLOCK_CHANNELS=16))
        if pool_run.fixed:
            torch.use_deterministic_algorithms(True)
            stack.callback(torch.use_deterministic_algorithms, False)
        check_forward_backward(functools.partial(run, impl="auto"), pool_run.case, pool_run.dtype)


def check_subsets(pool_run: PoolRun) -> None:
    """Assert that each gradient is the same for every subset of them, and that nothing else is returned."""
    case = pool_run.case
    operator = PLAIN if case.operator == "plain" else PS
    arguments, upstream = case.arguments(pool_run.dtype), case.upstream(pool_run.dtype)
    call = functools.partial(operator.backward_by, gpu_pooling.GPU, upstream, *arguments, *attributes_of(case))
    everything = call([True] * len(operator.gradients))
    for needed in itertools.product([False, True], repeat=len(operator.gradients)):
        for found, expected, need in zip(call(list(needed)), everything, needed, strict=True):
            if need:
                torch.testing.assert_close(found, expected, msg=f"{needed}")
            assert need or found.numel() == 0, f"{needed}"


@contextlib.contextmanager
def mutated(mutant: Mutant) -> Iterator[None]:
    """Run the kernels with one line replaced: a file of their own, put in the place of the real one."""
    text = Path(triton_pooling.__file__).read_text(encoding="utf-8")
    assert text.count(mutant.old) >= 1, f"{mutant.old!r} is not there"
    name = f"mutant_{mutant.name}"
    with tempfile.TemporaryDirectory() as place, mock.patch.object(sys, "path", [place, *sys.path]):
        (Path(place) / f"{name}.py").write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
        kernels = importlib.import_module(name)
        with mock.patch.multiple(gpu_pooling, **{kernel: getattr(kernels, kernel) for kernel in KERNELS}):
            yield


def check_mutant(mutant: Mutant) -> None:
    """Assert that a wrong kernel does not pass."""
    with mutated(mutant):
        try:
            check(mutant.run)
        except AssertionError:
            return
    raise AssertionError("the mutant was not noticed")


def main() -> None:
    warnings.simplefilter("ignore")  # the interpreter divides by zero where a GPU would give infinity
    make_quick()
    library = take_cpu_tensors()
    jobs = {
        "values": {
            **{r.name: functools.partial(check, r) for r in RUNS},
            **{f"subsets_{r.name}": functools.partial(check_subsets, r) for r in SUBSETS},
        },
        "mutants": {m.name: functools.partial(check_mutant, m) for m in MUTANTS},
    }
    for name, function in jobs[sys.argv[1]].items():
        problem = ""
        try:
            function()
        except AssertionError as error:
            problem = str(error) or "assertion failed"
        print(json.dumps({"name": name, "problem": problem}), flush=True)
    del library


if __name__ == "__main__":
    main()
