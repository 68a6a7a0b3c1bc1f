# SPDX-License-Identifier: Apache-2.0
"""Run as a program: random calls of the operators, through the library that the sanitizers watch.

    LD_PRELOAD=$(gcc -print-file-name=libasan.so) ASAN_OPTIONS=detect_leaks=0 \
        python -m helpers.fuzz.operators --library build/sanitize/libpliant_cpu.so --cases 10000 --seed 1

Each call is drawn from a number. A case is one operator at work: the forward pass of a call, or its backward pass for
one subset of the gradients, with one instruction set. Pixels, weights and masks are ordinary numbers, so that results
must be finite wherever boxes and offsets lie; all subsets and instruction sets must agree; a share of the calls is
compared with the reference. `--cases 0` goes on until stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import random
import sys
import time
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from helpers.fuzz.operator_calls import Call, WrongResultError, draw_call, upstream
from pliant.ops import instruction_set, instruction_sets
from pliant.ops._native import library

SUBSETS = 8  # of the gradients, for each call and instruction set: drawing tensors takes longer than a case
REFERENCE_SHARE = 32  # one drawn call in so many is compared with the reference
ROUNDING = {torch.float64: 1e-11, torch.float32: 1e-4, torch.bfloat16: 0.05, torch.float16: 0.01}


def run_cases(seed: int) -> int:
    """Draw one call, run it with every instruction set, and return the number of cases that this made."""
    call, pick = draw_call(seed), random.Random(seed)
    subsets = [[n for n in call.differentiable if pick.random() < 0.5] for _ in range(SUBSETS)]
    results = {}
    for name in instruction_sets():
        with instruction_set(name):
            results[name] = _run(call, subsets, seed)
    cases = len(results) * (1 + SUBSETS)
    if pick.randrange(REFERENCE_SHARE) == 0:
        results["reference"] = _by_the_reference(call, {n for subset in subsets for n in subset}, seed)
        cases += 1
    (first, expected), *others = results.items()
    for name, result in (item for found in results.values() for item in found.items()):
        if not math.isfinite(float(result.sum())):
            _check_infinities(name, result, call, seed)
    for other, found in others:
        for name, result in expected.items():
            _check_agree(result, found[name], f"{name} of {first} and {other}", call)
    return cases


def _run(call: Call, subsets: Sequence[Sequence[str]], seed: int) -> dict[str, Tensor]:
    """Return output and all gradients that are in one of `subsets`, which must agree in all that have them."""
    output = call.operator(**call.tensors, impl="native")
    grad, results = upstream(seed, output), {"output": output}
    for subset in subsets:
        for name, gradient in call.gradients(grad, subset).items():
            _check_agree(gradient, results.setdefault(name, gradient), f"{name} of two subsets", call)
    return results


def _check_infinities(name: str, result: Tensor, call: Call, seed: int) -> None:
    """A gradient may be infinite where the exact one, in float64, is too large for its type."""
    wrong = ~result.isfinite()
    if not bool(wrong.any()):
        return
    if name != "output":
        exactly = dataclasses.replace(call, tensors={n: t.double() for n, t in call.tensors.items()})
        exact = _by_the_reference(exactly, {name}, seed)[name].to(result.dtype)
        if torch.equal(exact[wrong], result[wrong]):
            return
    raise WrongResultError(f"{name} is not finite: {call.description}")


def _by_the_reference(call: Call, names: Collection[str], seed: int) -> dict[str, Tensor]:
    leaves = {n: t.detach().requires_grad_(n in names) for n, t in call.tensors.items()}
    output = call.operator(**leaves, impl="reference")
    wanted = [n for n in call.differentiable if n in names]
    if not wanted:
        return {"output": output}
    gradients = torch.autograd.grad(output, [leaves[n] for n in wanted], upstream(seed, output))
    return {"output": output.detach(), **dict(zip(wanted, gradients, strict=True))}


def _check_agree(one: Tensor, two: Tensor, what: str, call: Call) -> None:
    """The results may differ by the rounding of the coarsest type at hand, measured at the largest of them."""
    if torch.equal(one, two) or not bool(one.isfinite().all()):
        return  # numbers that are not finite are a fault of their own
    apart = float((one.double() - two.double()).abs().max())
    scale = max(1.0, float(one.abs().max()))
    types = (one.dtype, two.dtype, call.tensors["input"].dtype)
    if not apart <= max(ROUNDING[dtype] for dtype in types) * scale:
        raise WrongResultError(f"{what} differ by {apart:.3g} of {scale:.3g}: {call.description}")


def main() -> int:
    """Run the cases that the command line asks for, and say how many there were."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, help="the compiled library to load; else the installed one")
    parser.add_argument("--cases", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--last", type=Path, help="a file that holds the seed at work, for when the process dies")
    parser.add_argument("--threads", type=int, default=2, help="every second hundred of calls uses so many")
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
            torch.set_num_threads(arguments.threads if seed // 100 % 2 else 1)
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
