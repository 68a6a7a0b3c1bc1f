# SPDX-License-Identifier: Apache-2.0
"""Memory beyond the result: the peak of a fresh process during one call, less what stays."""

from __future__ import annotations

import subprocess
import sys

_PROGRAM = """
import sys
import torch, torchvision
from pathlib import Path
from torch.nn.functional import conv2d
from pliant.ops import deform_conv2d

name, training, size = sys.argv[1], sys.argv[2] == "True", int(sys.argv[3])
x, offset = torch.randn(1, 256, size, size), torch.randn(1, 18, size, size)
mask, weight = torch.rand(1, 9, size, size), torch.randn(256, 256, 3, 3)
run = {
    "conv2d": lambda x, o, m, w: conv2d(x, w, padding=1),
    "pliant": lambda x, o, m, w: deform_conv2d(x, o, w, padding=1, mask=m),
    "torchvision": lambda x, o, m, w: torchvision.ops.deform_conv2d(x, o, w, padding=1, mask=m),
}[name]

def call(side):
    tensors = [t[..., :side, :side].contiguous().requires_grad_(training) for t in (x, offset, mask)]
    tensors.append(weight.requires_grad_(training))
    used = [tensors[0], tensors[3]] if name == "conv2d" else tensors
    y = run(*tensors)
    grads = torch.autograd.grad(y, used, torch.ones_like(y)) if training else ()
    return sum(t.nbytes for t in (y, *grads))

def status(key):
    line = next(l for l in Path("/proc/self/status").read_text().splitlines() if l.startswith(key))
    return int(line.split()[1]) * 1024

call(9)  # loads libraries, starts threads
Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
before = status("VmRSS")
result = call(size)
print((status("VmHWM") - before - result) / 2**20)
"""


def memory(size: int = 160) -> list[dict[str, object]]:
    """Return megabytes beyond inputs and results of a 256-channel layer on a map of size * size, on Linux."""
    rows: list[dict[str, object]] = []
    for training in (False, True):
        found = {}
        for name in ("conv2d", "pliant", "torchvision"):
            program = [sys.executable, "-c", _PROGRAM, name, str(training), str(size)]
            done = subprocess.run(program, capture_output=True, text=True, check=True)
            found[name] = round(float(done.stdout), 1)
        mode = "forward and backward" if training else "forward"
        print(f"memory beyond the result, (1,256,{size},{size},256) {mode}: {found} MB")
        rows.append({"case": f"(1,256,{size},{size},256) float32", "mode": mode, "MB beyond the result": found})
    return rows
