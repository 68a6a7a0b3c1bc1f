# SPDX-License-Identifier: Apache-2.0
"""Finds and loads the compiled CPU library, and declares its functions: the only `import ctypes` of pliant."""

from __future__ import annotations

import ctypes
import functools
import sys
from ctypes import POINTER, c_char_p, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any

import torch

ABI_VERSION = 9
_SUFFIX = {"darwin": "dylib", "win32": "dll"}.get(sys.platform, "so")
PATH = Path(__file__).with_name(f"libpliant_cpu.{_SUFFIX}")

Pair = c_int64 * 2
Triple = c_int64 * 3
Packing = c_int64 * 5  # groups, outputs of a group, channels, taps, outputs of a panel


def _int64s(*names: str) -> list[tuple[str, type[c_int64]]]:
    return [(name, c_int64) for name in names]


class Tile(ctypes.Structure):
    """`pliant_tile` of abi.h: a run of output positions of some images and a slice of their channels."""

    _fields_ = (
        *_int64s("images", "height", "width", "image_stride", "pixel_stride"),
        *_int64s("channels", "run", "channel_begin", "offset_groups", "offset_group_channels"),
        *_int64s("out_width", "first", "count"),
        ("kernel", Pair),
        ("stride", Pair),
        ("padding", Pair),
        ("dilation", Pair),
        ("offset_stride", Triple),
        ("mask_stride", Triple),
        *_int64s("offset_type", "mask_type", "threads"),
    )


class ConvGradients(ctypes.Structure):
    """`pliant_gradients` of abi.h: what a backward pass reads and writes beside the forward's arguments."""

    _fields_ = (
        ("grad", c_void_p),
        ("grad_stride", Pair),
        ("image", c_void_p),
        *_int64s("image_stride", "pixel_stride", "channel_stride"),
        ("image_memory", c_void_p),
        ("weight", c_void_p),
        ("offset", c_void_p),
        ("mask", c_void_p),
        *_int64s("offset_type", "mask_type", "map_stride", "accumulate"),
        ("shares", c_void_p),
    )


class Pooling(ctypes.Structure):
    """`pliant_pooling` of abi.h: some boxes of one image and a slice of the output's channels."""

    _fields_ = (
        *_int64s("height", "width", "pixel_stride", "channel_stride", "groups", "group_stride"),
        ("bins", Pair),
        *_int64s("rule", "outputs", "class_channels", "channel_begin", "channels", "boxes", "threads"),
    )


TYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}

_SIZE, _STRIDE = POINTER(Triple), POINTER(Pair)
_TILE = POINTER(Tile)
_POOLING = POINTER(Pooling)
_GRADIENTS = POINTER(ConvGradients)
_function = ctypes.CFUNCTYPE


class Kernels(ctypes.Structure):
    """`pliant_kernels` of abi.h: the functions that are compiled for one instruction set."""

    _fields_ = (
        ("instruction_set", c_char_p),
        ("transpose", _function(None, _SIZE, c_void_p, _STRIDE, c_void_p, _STRIDE, c_int64, c_int64)),
        ("pack_weight", _function(None, POINTER(Packing), c_void_p, POINTER(Triple), c_void_p, c_int64, c_int64)),
        (
            "deform_conv",
            _function(c_int, _TILE, c_int, *[c_void_p] * 4, c_int64, c_void_p, c_void_p, POINTER(Triple), c_int),
        ),
        (
            "deform_conv_few",
            _function(c_int, _TILE, c_int, *[c_void_p] * 4, POINTER(Triple), c_int64, *[c_void_p] * 3, POINTER(Triple)),
        ),
        ("deform_conv_panel", _function(c_int64, c_int)),
        ("deform_shares", _function(c_int64, _TILE)),
        ("deform_conv_backward", _function(c_int, _TILE, c_int, *[c_void_p] * 4, c_int64, _GRADIENTS)),
        ("deform_sample", _function(None, _TILE, c_int, *[c_void_p] * 4)),
        ("deform_sample_backward", _function(None, _TILE, c_int, *[c_void_p] * 4, _GRADIENTS)),
        ("deform_depthwise", _function(c_int, _TILE, c_int, *[c_void_p] * 6, POINTER(Triple))),
        ("deform_depthwise_backward", _function(c_int, _TILE, c_int, *[c_void_p] * 4, _GRADIENTS)),
        ("pool", _function(c_int, _POOLING, c_int, *[c_void_p] * 6)),
        ("pool_backward", _function(c_int, _POOLING, c_int, *[c_void_p] * 7, c_int64, c_void_p)),
    )


_EXPORTED: dict[str, tuple[object, list[object]]] = {
    "pliant_abi_version": (c_int64, []),
    "pliant_set_parallel_region": (None, [c_void_p]),
    "pliant_kernels_for": (POINTER(Kernels), [c_char_p]),
}


class NativeLibrary:
    """The loaded library: the functions of the instruction set in use under `kernels`, and what it runs on."""

    def __init__(self, path: Path) -> None:
        self._exported = ctypes.CDLL(str(path))
        for name, (result, arguments) in _EXPORTED.items():
            function = getattr(self._exported, name)
            function.restype, function.argtypes = result, arguments
        found = self._exported.pliant_abi_version()
        if found != ABI_VERSION:
            raise OSError(f"{path.name} has interface {found}, this pliant needs {ABI_VERSION}")
        region = _parallel_region()
        self.has_threads = region is not None
        self._exported.pliant_set_parallel_region(region)
        self.kernels: Any = self._exported.pliant_kernels_for(None).contents

    def use_instruction_set(self, name: str) -> bool:
        """Switch all kernels to one instruction set, for tests; false where the processor cannot run it."""
        kernels = self._exported.pliant_kernels_for(name.encode())
        if kernels:
            self.kernels = kernels.contents
        return bool(kernels)

    def instruction_set(self) -> str:
        """Return "avx512", "avx2" or "baseline"."""
        return str(self.kernels.instruction_set.decode())

    def describe(self) -> str:
        """Return one line for people: instruction set and threads."""
        threads = f"up to {torch.get_num_threads()} threads of PyTorch's own pool"
        if not self.has_threads:
            threads = "one thread, since PyTorch here uses no OpenMP runtime that can be shared"
        return f"{self.instruction_set()} kernels, {threads}"


def _parallel_region() -> int | None:
    """Return the address of GOMP_parallel in the OpenMP runtime that PyTorch itself is linked to.

    Looking the name up through PyTorch's own extension module searches that module's dependencies, so the answer is the
    runtime PyTorch uses, whatever its file is called; linking to one of our own would start a second pool of threads
    that competes with the first. GCC's, LLVM's and Intel's runtimes all have this function.
    """
    try:
        return ctypes.cast(ctypes.CDLL(torch._C.__file__).GOMP_parallel, c_void_p).value
    except (AttributeError, OSError):
        return None


@functools.cache
def _attempt() -> tuple[NativeLibrary | None, str]:
    if not PATH.exists():
        return None, f"this installation holds no compiled library ({PATH.name})"
    try:
        return NativeLibrary(PATH), ""
    except (OSError, AttributeError) as error:
        return None, f"{PATH.name} cannot be loaded: {error}"


def load() -> NativeLibrary | None:
    """Return the library, loaded once, or None where there is none that works."""
    return _attempt()[0]


def why_not() -> str:
    """Return why `load` gave None, or an empty string."""
    return _attempt()[1]
