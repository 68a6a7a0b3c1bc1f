# SPDX-License-Identifier: Apache-2.0
"""Which tile each Triton kernel works on: a small table by architecture, chosen from what the compiler reports.

The rows of `FUSED` hold for the widest block of output channels that they name or any narrower one. They were chosen
so that no kernel spills registers and so that shared memory suffices; they have not been timed on a GPU. `gpu_tune`
times the alternatives for one layer where somebody asks for it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from pliant.ops._triton import Architecture

ELEMENTWISE_CHANNELS = 4  # of a weight group, up to which multiplying elementwise beats padding to a tensor core's 16


class Tile(NamedTuple):
    """Output positions x output channels of one program, channels of one step, and how Triton is to compile it."""

    positions: int
    outputs: int
    channels: int
    warps: int
    stages: int
    patch: int = 0  # columns of a two-dimensional tile of positions; 0 is a run of positions


class SampleTile(NamedTuple):
    """Positions x channels of one program of the backward pass, and its warps."""

    positions: int
    channels: int
    warps: int


WIDE_TYPES = {
    32: (Tile(64, 128, 32, 8, 2), Tile(64, 64, 32, 4, 2), Tile(64, 32, 32, 4, 2)),
    64: (Tile(32, 64, 16, 4, 2), Tile(32, 32, 16, 4, 2)),
}  # of all NVIDIA's architectures below
# Architecture -> bits of a storage type -> tiles from wide to narrow. 16 is float16 and bfloat16.
FUSED: dict[str, dict[int, tuple[Tile, ...]]] = {
    "sm_80": {
        16: (Tile(128, 256, 32, 8, 2), Tile(128, 128, 32, 8, 2), Tile(128, 64, 32, 4, 2), Tile(64, 32, 32, 4, 2)),
        **WIDE_TYPES,
    },
    "sm_90": {
        16: (Tile(128, 256, 32, 8, 3), Tile(128, 128, 64, 8, 2), Tile(128, 64, 64, 8, 2), Tile(64, 32, 64, 4, 2)),
        **WIDE_TYPES,
    },
    "sm_100": {
        16: (Tile(128, 256, 64, 8, 2), Tile(128, 128, 64, 8, 2), Tile(128, 64, 64, 8, 2), Tile(64, 32, 64, 4, 2)),
        **WIDE_TYPES,
    },
    "gfx942": {
        16: (Tile(128, 256, 32, 8, 2), Tile(128, 128, 32, 8, 2), Tile(64, 64, 32, 4, 2), Tile(64, 32, 32, 4, 2)),
        32: (Tile(64, 64, 32, 4, 2), Tile(64, 32, 32, 4, 2)),
        64: (Tile(32, 32, 16, 4, 2),),
    },
    "default": {
        16: (Tile(64, 128, 32, 8, 2), Tile(64, 64, 32, 4, 2), Tile(64, 32, 32, 4, 2)),
        32: (Tile(64, 64, 32, 4, 2), Tile(64, 32, 32, 4, 2)),
        64: (Tile(32, 32, 16, 4, 2),),
    },
}
ELEMENTWISE = Tile(32, 64, 1, 4, 1)
SAMPLES = SampleTile(32, 64, 4)
SAMPLES_FLOAT64 = SampleTile(32, 16, 4)
CELLS = 1024  # samples of one program that computes their cells
GATHER_ROWS = 4  # samples that one step of the gradient gather reads together
GATHER_CHANNELS = 256  # channels of one program of the gradient gather, at most


class Layer(NamedTuple):
    """What the choice of a tile depends on."""

    dtype: torch.dtype
    positions: int
    groups: int
    outputs: int  # of a group
    segment: int  # channels in a row that one weight group and one offset group share


_tuned: dict[tuple[str, Layer], Tile] = {}


def remember(architecture: Architecture, layer: Layer, tile: Tile) -> None:
    """Use `tile` for such layers until the process ends."""
    _tuned[architecture.name, layer] = tile


def fused_tile(architecture: Architecture, layer: Layer) -> Tile:
    """Return the tile of the fused kernel: what was tuned, else the table's.

    Narrower than the table where there are fewer channels; fewer positions where there would be fewer programs than
    the GPU has processors.
    """
    if (tuned := _tuned.get((architecture.name, layer))) is not None:
        return tuned
    rows = FUSED.get(architecture.name, FUSED["default"])[8 * layer.dtype.itemsize]
    tile = next((t for t in reversed(rows) if t.outputs >= layer.outputs), rows[0])
    tile = tile._replace(
        outputs=min(tile.outputs, max(16, power_of_two(layer.outputs))),
        channels=min(tile.channels, max(16, power_of_two(layer.segment))),
    )
    blocks = layer.groups * -(-layer.outputs // tile.outputs)
    while tile.positions > 32 and -(-layer.positions // tile.positions) * blocks < architecture.processors:
        tile = tile._replace(positions=tile.positions // 2)
    return tile


def candidates(tile: Tile) -> list[Tile]:
    """Return `tile` and its neighbours: what tuning tries."""
    changes: list[dict[str, int]] = [{}, {"patch": 16}, {"stages": 3}, {"channels": 2 * tile.channels}]
    changes += [{"positions": 2 * tile.positions}, {"positions": tile.positions // 2}, {"warps": 12 - tile.warps}]
    tiles = [tile._replace(**change) for change in changes]
    return [t for t in tiles if 32 <= t.positions <= 128 and t.channels <= 64 and t.warps in (4, 8)]


def elementwise_tile(dtype: torch.dtype, outputs: int, *, shared: bool = True) -> Tile:
    """Return the tile of the kernel without a matrix product; narrow where channels do not share their cells."""
    most = ELEMENTWISE.outputs if shared else 16
    most //= 2 if dtype == torch.float64 else 1
    return ELEMENTWISE._replace(outputs=min(most, max(8, power_of_two(outputs))))


def sample_tile(dtype: torch.dtype, channels: int, *, scatters: bool) -> SampleTile:
    """Return the tile of the backward kernel that reads each sample's pixels, for `channels` of an offset group."""
    tile = SAMPLES_FLOAT64 if dtype == torch.float64 else SAMPLES
    most = tile.channels // 2 if scatters and dtype == torch.float32 else tile.channels  # else sm_80 spills registers
    return tile._replace(channels=min(most, max(8, power_of_two(channels))))


def power_of_two(n: int) -> int:
    """Return the least power of two that is at least `n`."""
    return 1 << max(0, n - 1).bit_length()
