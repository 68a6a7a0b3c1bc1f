# SPDX-License-Identifier: Apache-2.0
"""Run as a program: random calls of the operators, through the library that the sanitizers watch.

    LD_PRELOAD=$(gcc -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 \
        python -m helpers.fuzz.operators --library build/sanitize/libpliant_cpu.so --cases 10000 --seed 1

A case is one forward and one backward pass, for a random subset of the gradients, with one instruction set. Every set
must give the same result, and a share of the calls is compared with the reference. `--cases 0` goes on until stopped.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from helpers.fuzz.operator_calls import Call, draw_call, upstream
from pliant.ops import instruction_set, instruction_sets
from pliant.ops._native import library

REFERENCE_SHARE = 16  # one drawn call in so many is compared with the reference
ROUNDING = {torch.float64: 1e-11, torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}


class WrongResultError(AssertionError):
    """A result that is wrong."""


def run_cases(seed: int) -> int:
    """Draw one call, run it with every instruction set, and return the number of cases that this made."""
    call, pick = draw_call(seed), random.Random(seed)
    subset = [name for name in call.differentiable if pick.random() < 0.5]
    results = []
    for name in instruction_sets():
        with instruction_set(name):
            results.append((name, *_run(call, subset, seed)))
    if pick.randrange(REFERENCE_SHARE) == 0:
        results.append(("reference", *_run(call, subset, seed, impl="reference")))
    first, output, gradients = results[0]
    _check_finite(call, {"output": output, **gradients})
    for other, its_output, its_gradients in results[1:]:
        pairs = {"output": (output, its_output)} | {n: (gradients[n], its_gradients[n]) for n in gradients}
        for what, (one, two) in pairs.items():
            _check_agree(one, two, f"{what} of {first} and {other}", call)
    return len(results)


def _run(call: Call, subset: Sequence[str], seed: int, impl: str = "native") -> tuple[Tensor, dict[str, Tensor]]:
    """Return output and the gradients that are in `subset`."""
    leaves = {n: t.detach().requires_grad_(n in subset) for n, t in call.tensors.items()}
    output = call.operator(**leaves, impl=impl)
    if not subset:
        return output, {}
    gradients = torch.autograd.grad(output, [leaves[n] for n in subset], upstream(seed, output))
    for name, gradient in zip(subset, gradients, strict=True):
        wanted = call.tensors[name]
        if gradient.shape != wanted.shape or gradient.dtype != wanted.dtype:
            raise WrongResultError(
                f"gradient of {name} is {tuple(gradient.shape)} of {gradient.dtype}: {call.description}"
            )
    return output.detach(), dict(zip(subset, gradients, strict=True))


def _check_finite(call: Call, results: dict[str, Tensor]) -> None:
    """Pixels, weights and masks are ordinary numbers, so that no position may make a result anything else."""
    for name, result in results.items():
        if not bool(result.isfinite().all()):
            raise WrongResultError(f"{name} is not finite: {call.description}")


def _check_agree(one: Tensor, two: Tensor, what: str, call: Call) -> None:
    """The results may differ by the rounding of the coarsest type at hand, measured at the largest of them."""
    scale = max(1.0, float(one.abs().max()) if one.numel() else 0.0)
    apart = (one.double() - two.double()).abs()
    allowed = max(ROUNDING[one.dtype], ROUNDING[call.tensors["input"].dtype])
    if apart.numel() and not float(apart.max()) <= allowed * scale:
        raise WrongResultError(f"{what} differ by {float(apart.max()):.3g} of {scale:.3g}: {call.description}")


def main() -> int:
    """Run the cases that the command line asks for, and say how many there were."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, help="the compiled library to load; else the installed one")
    parser.add_argument("--cases", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--last", type=Path, help="a file that holds the seed at work, for when the process dies")
    parser.add_argument("--keep-going", action="store_true", help="print wrong results and go on")
    arguments = parser.parse_args()
    if arguments.library is not None:
        mock.patch.object(library, "PATH", arguments.library.resolve()).start()
        library._attempt.cache_clear()
    if library.load() is None:
        print(library.why_not(), file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")
    return _loop(arguments)


def _loop(arguments: argparse.Namespace) -> int:
    began, faults, done, seed = time.monotonic(), 0, 0, arguments.seed
    last = os.open(arguments.last or os.devnull, os.O_WRONLY | os.O_CREAT, 0o644)
    said = 0
    while not arguments.cases or done < arguments.cases:
        os.pwrite(last, b"%020d\n" % seed, 0)
        torch.use_deterministic_algorithms(seed % 7 == 0)  # which also fills fresh memory with numbers that are not
        if seed % 100 == 0:
            torch.set_num_threads(1 + seed // 100 % 2)
        try:
            done += run_cases(seed)
        except WrongResultError as fault:
            faults += 1
            print(f"seed {seed}: {fault}", flush=True)
            if not arguments.keep_going:
                return 1
        seed += 1
        if done - said >= 10000:
            said = done
            print(f"{done} cases, {seed - arguments.seed} calls, {time.monotonic() - began:.0f} s", flush=True)
    print(f"{done} cases, {seed - arguments.seed} calls, {faults} faults, {time.monotonic() - began:.0f} s", flush=True)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
