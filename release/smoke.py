# SPDX-License-Identifier: Apache-2.0
"""What `make test-wheels` runs in a fresh environment that holds one of the wheels, PyTorch, and nothing else."""

from __future__ import annotations

import platform
import sys
import sysconfig
import warnings
from pathlib import Path

import torch

import pliant
from pliant.ops import deform_conv2d, deform_roi_pool, instruction_sets


def shifted(implementation: str) -> torch.Tensor:
    """Return 2 * x moved a whole pixel to the left, for an x whose values are known."""
    x = torch.arange(12.0).reshape(1, 1, 3, 4)
    offset = torch.zeros(1, 2, 3, 4)
    offset[:, 1] = 1.0
    return deform_conv2d(x, offset, torch.full((1, 1, 1, 1), 2.0), impl=implementation)[0, 0]


def gradients(implementation: str) -> list[torch.Tensor]:
    """Return the gradients of a strided convolution with masks and two groups of offsets."""
    random = torch.Generator().manual_seed(7)
    shapes = [(2, 6, 9, 11), (2, 36, 5, 6), (8, 6, 3, 3), (2, 18, 5, 6)]
    x, offset, weight, mask = (torch.randn(shape, generator=random, requires_grad=True) for shape in shapes)
    out = deform_conv2d(x, offset, weight, mask=mask, stride=2, padding=1, impl=implementation)
    return list(torch.autograd.grad((out * out).sum(), (x, offset, weight, mask)))


def check_instruction_set() -> None:
    """Compare the instruction set in use with what Linux says of the processor; elsewhere nothing is said."""
    known = Path("/proc/cpuinfo")
    flags = set(known.read_text().split()) if known.exists() and platform.machine() == "x86_64" else set()
    for flag, name in (("avx2", "avx2"), ("avx512bw", "avx512")):
        assert flag not in flags or name in instruction_sets(), (
            f"the processor has {flag}, used are {instruction_sets()}"
        )


def check_absence() -> None:
    """Ask for the library that the pure wheel does not bring."""
    try:
        shifted("native")
    except RuntimeError as error:
        if "holds no compiled library" in str(error):
            return
        raise
    raise AssertionError("a wheel without the library ran it")


def main() -> None:
    """Check the installed wheel: `native` if it brings the CPU library, `reference` if not."""
    expected = sys.argv[1]
    assert Path(pliant.__file__).is_relative_to(sysconfig.get_path("purelib")), pliant.__file__
    known = [[2.0, 4.0, 6.0, 0.0], [10.0, 12.0, 14.0, 0.0], [18.0, 20.0, 22.0, 0.0]]
    assert shifted("reference").tolist() == known
    if expected == "native":
        check_instruction_set()
        assert shifted("native").tolist() == known
        for fast, slow in zip(gradients("native"), gradients("reference"), strict=True):
            torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-4)
    else:
        check_absence()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert shifted("auto").tolist() == known
        assert deform_roi_pool(torch.ones(1, 4, 8, 8), torch.tensor([[0.0, 1.0, 1.0, 5.0, 6.0]]), 2).eq(1).all()
    assert any("slow reference" in str(warning.message) for warning in caught) == (expected == "reference")
    model = pliant.convert(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 5, 3)), "1")
    assert model(torch.ones(1, 3, 9, 7)).shape == (1, 5, 5, 3)
    print(f"pliant {pliant.__version__} with PyTorch {torch.__version__}: {expected} works")


if __name__ == "__main__":
    main()
