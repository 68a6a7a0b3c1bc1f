# SPDX-License-Identifier: Apache-2.0
"""Run as a program: compile what the GPU path would launch, for GPUs that are not here; print a line of JSON for each.

The host code runs on tensors without data, on a CUDA device that is not there. Each launch goes to Triton's own
`warmup`, which specialises and compiles as a launch would, for the target that a stand-in driver names. What comes out
is read from the machine code: registers, spills, shared memory, tensor-core instructions, wide loads.

    python -m helpers.gpu.compiled [--full] sm_80 sm_90
"""

from __future__ import annotations

import argparse
import bisect
import contextlib
import itertools
import json
import re
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import triton
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import MockTensor

from helpers.gpu.compile_matrix import FULL, TESTED, Layer, Pooling
from pliant._geometry import ConvGeometry
from pliant.ops import _triton
from pliant.ops._deform_conv2d import gpu_plan
from pliant.ops._deform_conv2d.gpu_backward import deform_conv2d_triton_backward
from pliant.ops._deform_conv2d.gpu_forward import deform_conv2d_triton
from pliant.ops._deform_conv2d.gpu_tiles import Tile
from pliant.ops._deform_ps_roi_pool.contract import OPERATOR as PS
from pliant.ops._deform_roi_pool.contract import OPERATOR as PLAIN
from pliant.ops._pooling.gpu_pooling import GPU

# Architecture -> what it is to compile for, and its processors. sm_89 stands for the GPUs without a row of their own.
TARGETS = {
    "sm_80": (GPUTarget("cuda", 80, 32), 108),
    "sm_89": (GPUTarget("cuda", 89, 32), 128),
    "sm_90": (GPUTarget("cuda", 90, 32), 132),
    "sm_100": (GPUTarget("cuda", 100, 32), 148),
    "gfx942": (GPUTarget("hip", "gfx942", 64), 304),
}


Launch = tuple[Any, tuple[int, ...], tuple[Any, ...], dict[str, Any]]  # kernel, grid, arguments, options


class Driver:
    """What Triton asks its driver for while it compiles. An architecture is a device, by which kernels are kept."""

    def __init__(self, name: str) -> None:
        self.device, self.target = list(TARGETS).index(name), TARGETS[name][0]

    def get_current_device(self) -> int:
        return self.device

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self.target


@contextlib.contextmanager
def recorded(kind: _triton.Architecture) -> Iterator[dict[str, Launch]]:
    """Record the first launch of each kernel, of tensors without data on a GPU of this kind."""
    found: dict[str, Launch] = {}

    def record(kernel: Any, grid: tuple[int, ...], device: torch.device, *arguments: Any, **options: Any) -> None:
        found.setdefault(kernel.__name__, (kernel, grid, arguments, options))

    with contextlib.ExitStack() as stack:
        stack.enter_context(FakeTensorMode())
        stack.enter_context(mock.patch.object(_triton, "launch", record))
        stack.enter_context(mock.patch.object(_triton, "architecture", return_value=kind))
        yield found


def convolve(layer: Layer, dtype: torch.dtype) -> None:
    """Run a layer's forward and backward."""
    N, C, H, W = layer.shape
    G, last = layer.offset_groups, torch.channels_last if layer.channels_last else torch.contiguous_format
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(gpu_plan, "WORKSPACE_BYTES", layer.workspace))
        if layer.wide:
            stack.enter_context(mock.patch.object(_triton, "LARGEST_INT32", 0))
        if layer.workspace < 64 << 20:
            stack.enter_context(mock.patch.object(gpu_plan, "SORTED_BYTES", 0))
        if layer.name not in ("large", "small", "depthwise"):
            stack.enter_context(mock.patch.object(gpu_plan, "SCATTER_ELEMENTS", 0))
        x = torch.empty(N, C, H, W, device="cuda", dtype=dtype).contiguous(memory_format=last)
        weight, bias = x.new_empty(layer.outputs, C // layer.groups, 3, 3), x.new_empty(layer.outputs)
        offset = torch.empty(N, 18 * G, H, W, device="cuda", dtype=torch.promote_types(dtype, torch.float32))
        mask = x.new_empty(N, 9 * G, H, W) if layer.modulated else None
        geometry = ConvGeometry((1, 1), (1, 1), (1, 1))
        tile = Tile(128, 64, 64, 8, 2, layer.patch) if layer.patch else None
        y = deform_conv2d_triton(x, offset, weight, bias if layer.modulated else None, geometry, mask, tile=tile)
        deform_conv2d_triton_backward(y, x, offset, weight, geometry, mask, [True] * 4 + [layer.modulated])


def pool(pooling: Pooling, dtype: torch.dtype) -> None:
    """Run a pooling's forward and backward."""
    rois = torch.empty(512, 5, device="cuda", dtype=torch.promote_types(dtype, torch.float32))
    channels, operator = (1, PLAIN) if pooling.operator == "plain" else (21, PS)
    maps = (rois.new_empty(512, 2 * channels, 7, 7), rois.new_empty(512, channels, 7, 7))
    if pooling.operator == "plain":
        x = torch.empty(2, 256, 50, 84, device="cuda", dtype=dtype)
        attributes: tuple[Any, ...] = ((7, 7), 1 / 16, 2, 0.1)
    else:
        x = torch.empty(2, 21 * 49, 38, 63, device="cuda", dtype=dtype)
        attributes = ((7, 7), 21, 7, (7, 7), 4, 1 / 16, 0.1)
    torch.use_deterministic_algorithms(pooling.deterministic)
    try:
        output = operator.forward_by(GPU, x, rois, *maps, *attributes)
        operator.backward_by(GPU, output, x, rois, *maps, *attributes, [True] * len(operator.gradients))
    finally:
        torch.use_deterministic_algorithms(False)


def compile_launch(kernel: Any, grid: tuple[int, ...], arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Return the compiled kernel of a launch."""
    mocked = [MockTensor(a.dtype) if isinstance(a, torch.Tensor) else a for a in arguments]
    return kernel.run(*mocked, grid=grid, warmup=True, enable_fp_fusion=True, **options)


def reports(compiled: list[Any], target: GPUTarget) -> list[dict[str, int]]:
    """Return what the machine code of each kernel says."""
    shared = [{"shared": kernel.metadata.shared} for kernel in compiled]
    if target.backend == "hip":
        return [row | amd(kernel.asm["amdgcn"]) for row, kernel in zip(shared, compiled, strict=True)]
    names = instructions([code_of(kernel.asm["cubin"]) for kernel in compiled], target.arch)
    return [
        row | nvidia(kernel.asm["cubin"], of_kernel) | {"approximate": kernel.asm["ptx"].count("div.full")}
        for row, kernel, of_kernel in zip(shared, compiled, names, strict=True)
    ]


def amd(code: str) -> dict[str, int]:
    numbers = {name: re.search(rf"\.{name}:\s+(\d+)", code) for name in ("vgpr_count", "vgpr_spill_count")}
    return {
        "registers": int(numbers["vgpr_count"][1]) if numbers["vgpr_count"] else -1,
        "spills": int(numbers["vgpr_spill_count"][1]) if numbers["vgpr_spill_count"] else -1,
        "tensor": len(re.findall(r"v_mfma", code)),
        "wide_loads": len(re.findall(r"(?:buffer|global)_load_dwordx4", code)),
        "atomics": len(re.findall(r"(?:buffer|global)_atomic", code)),
    }


def tool(name: str, *arguments: str, content: bytes) -> str:
    """Return what a tool of Triton's prints about a file of this content."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(content)
        file.flush()
        command = [str(Path(triton.__file__).parent / "backends/nvidia/bin" / name), *arguments, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def code_of(cubin: bytes) -> bytes:
    """Return the machine code of the one kernel in an ELF file: its section `.text.NAME`."""
    (headers,) = struct.unpack_from("<Q", cubin, 0x28)
    size, count, names = struct.unpack_from("<HHH", cubin, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", cubin, headers + k * size) for k in range(count)]
    (code,) = (
        cubin[offset : offset + length]
        for name, _, _, _, offset, length in sections
        if cubin.startswith(b".text.", sections[names][4] + name)
    )
    return code


def instructions(codes: list[bytes], capability: int) -> list[list[str]]:
    """Return the names of the instructions of each kernel, all read at once: the tool takes long to start."""
    kind = f"SM{capability}{'a' if capability >= 90 else ''}"
    text = tool("nvdisasm", "--binary", kind, "--no-dataflow", content=b"".join(codes))
    found = re.findall(r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_.]+)", text, re.MULTILINE)
    ends = list(itertools.accumulate(map(len, codes)))
    names: list[list[str]] = [[] for _ in codes]
    for place, name in found:
        names[bisect.bisect_right(ends, int(place, 16))].append(name)
    assert all(16 * len(of_kernel) == len(code) for of_kernel, code in zip(names, codes, strict=True))
    return names


def nvidia(cubin: bytes, names: list[str]) -> dict[str, int]:
    text = tool("cuobjdump", "--dump-resource-usage", content=cubin)
    usage = re.search(r"REG:(\d+)", text)
    assert usage is not None, text[:400]

    def count(pattern: str) -> int:
        return sum(1 for name in names if re.match(pattern, name))

    return {
        "registers": int(usage[1]),
        "spills": count("STL"),
        "tensor": count(r"HGMMA|HMMA|DMMA|UTC.*MMA"),
        "wide_loads": count(r"(LDG|LDGSTS)\..*128"),
        "atomics": count(r"RED|ATOM"),
    }


def compile_all(name: str, *, full: bool) -> None:
    """Print what the machine code of each kernel holds for one architecture."""
    target, processors = TARGETS[name]
    triton.runtime.driver.set_active(Driver(name))
    rows, compiled = [], []
    for type_name, wanted in (FULL if full else TESTED)[name].items():
        torch.backends.cuda.matmul.allow_tf32 = type_name == "tf32"
        dtype = torch.float32 if type_name == "tf32" else getattr(torch, type_name)
        for work, kernels in wanted.items():
            with recorded(_triton.Architecture(name, processors)) as found:
                run: Callable[[Any, torch.dtype], None] = pool if isinstance(work, Pooling) else convolve
                run(work, dtype)
            for kernel in kernels:
                begin = time.perf_counter()
                compiled.append(compile_launch(*found[kernel]))
                seconds = round(time.perf_counter() - begin, 2)
                row = {"architecture": name, "kernel": kernel, "work": work.name, "type": type_name}
                rows.append(row | {"seconds": seconds})
    for row, said in zip(rows, reports(compiled, target), strict=True):
        print(json.dumps(row | said), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--full", action="store_true")
    parser.add_argument("architectures", nargs="+", choices=TARGETS)
    arguments = parser.parse_args()
    for name in arguments.architectures:
        compile_all(name, full=arguments.full)


if __name__ == "__main__":
    main()
