# SPDX-License-Identifier: Apache-2.0
"""The kernels with one line replaced: files of their own, imported as modules and put in the place of the real."""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from pliant.ops._deform_conv2d import gpu_backward, gpu_cells, gpu_forward, triton_forward

FILES = ("triton_sampling", "triton_forward", "triton_backward")
USERS = {
    gpu_forward: ("triton_forward", ("fused_convolution", "elementwise_convolution")),
    gpu_backward: ("triton_backward", ("sample_backward", "gather_gradient")),
    gpu_cells: ("triton_backward", ("sample_cells",)),
}


@contextlib.contextmanager
def mutated_kernels(file: str, old: str, new: str) -> Iterator[None]:
    """Run the GPU path with `old` in one of the kernels' files, where it stands once, replaced by `new`."""
    folder = Path(triton_forward.__file__).parent
    package = f"mutant_{abs(hash((file, old, new)))}"
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as stack:
        target = Path(place) / package
        target.mkdir()
        (target / "__init__.py").touch()
        for name in FILES:
            text = (folder / f"{name}.py").read_text(encoding="utf-8")
            if name == file:
                assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {name}.py"
                text = text.replace(old, new)
            # Of the mutant's own folder, or a wrong line in what the others import would change nothing.
            text = re.sub(r"from pliant\.ops\._deform_conv2d\.(?=triton_)", f"from {package}.", text)
            (target / f"{name}.py").write_text(text, encoding="utf-8")
        sys.path.insert(0, place)
        stack.callback(sys.path.remove, place)
        for user, (module, kernels) in USERS.items():
            mutant = importlib.import_module(f"{package}.{module}")
            stack.enter_context(mock.patch.multiple(user, **{name: getattr(mutant, name) for name in kernels}))
        yield
