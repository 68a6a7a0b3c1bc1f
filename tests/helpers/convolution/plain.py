# SPDX-License-Identifier: Apache-2.0
"""A deformable convolution in plain PyTorch, with one method for each decision that one can get wrong.

It serves twice: run in a low precision it says how much error that precision costs (`budget.py`), and with one method
replaced by a wrong one it is a mutant (`mutants.py`). It shares no code with pliant or with the oracle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from helpers.convolution.cases import Arguments, Pair

CORNERS = ((0, 0), (0, 1), (1, 0), (1, 1))


@dataclass
class Samples:
    """What the forward pass knows about each sampling point; all (N, G, K, Ho, Wo) except the values."""

    y: Tensor
    x: Tensor
    live: Tensor  # the point can see the image
    modulation: Tensor
    corners: list[Tensor]  # the four pixels around each point, (N, G, Cg, K, Ho, Wo)


class PlainDeformConv2d:
    """The correct operator. A call is differentiable once; `backward` is written out by hand, as in a kernel."""

    def __call__(self, *arguments: Any) -> Tensor:
        result: Tensor = _Call.apply(self, *arguments)
        return result

    # -- geometry ------------------------------------------------------------------------------------------------
    def stride(self, a: Arguments) -> Pair:
        return a.stride

    def padding(self, a: Arguments) -> Pair:
        return a.padding

    def dilation(self, a: Arguments) -> Pair:
        return a.dilation

    def kernel_taps(self, a: Arguments) -> tuple[Tensor, Tensor]:
        """Return the row and the column of each tap, row-major, (K,)."""
        rows, columns = a.weight.shape[2:]
        k = torch.arange(rows * columns)
        return k // columns, k % columns

    def offset_groups(self, a: Arguments) -> int:
        return a.offset.shape[1] // (2 * a.weight.shape[2] * a.weight.shape[3])

    def channel_order(self, a: Arguments) -> Tensor:
        """Return the input channels, sorted by offset group."""
        return torch.arange(a.input.shape[1])

    def split_offsets(self, a: Arguments) -> tuple[Tensor, Tensor]:
        """Return dy and dx, (N, G, K, Ho, Wo)."""
        n, _, rows, columns = a.offset.shape
        split = a.offset.reshape(n, self.offset_groups(a), -1, 2, rows, columns)
        return split[:, :, :, 0], split[:, :, :, 1]

    def join_offsets(self, d_y: Tensor, d_x: Tensor) -> Tensor:
        """Return the offset gradient (N, 2*G*K, Ho, Wo): the inverse of `split_offsets`."""
        return torch.stack((d_y, d_x), 3).flatten(1, 3)

    def modulation(self, a: Arguments) -> Tensor:
        n, _, rows, columns = a.offset.shape
        shape = (n, self.offset_groups(a), a.weight.shape[2] * a.weight.shape[3], rows, columns)
        return torch.ones(shape).to(a.input) if a.mask is None else a.mask.reshape(shape)

    def positions(self, a: Arguments) -> tuple[Tensor, Tensor]:
        """Return the coordinates of each sample, at least in float32."""
        found = []
        tap_rows, tap_columns = self.kernel_taps(a)
        for axis, taps, offset in zip((0, 1), (tap_rows, tap_columns), self.split_offsets(a), strict=True):
            steps = torch.arange(offset.shape[3 + axis]) * self.stride(a)[axis] - self.padding(a)[axis]
            base = (taps * self.dilation(a)[axis]).view(-1, 1, 1) + (steps.view(-1, 1) if axis == 0 else steps)
            found.append(self.add(base, offset))
        return found[0], found[1]

    def add(self, base: Tensor, offset: Tensor) -> Tensor:
        return base.to(_wide(offset)) + offset.to(_wide(offset))

    def live(self, y: Tensor, x: Tensor, a: Arguments) -> Tensor:
        rows, columns = a.input.shape[2:]
        return (y >= -1) & (x >= -1) & (y < rows) & (x < columns)  # false for NaN

    # -- sampling ------------------------------------------------------------------------------------------------
    def floor(self, p: Tensor) -> Tensor:
        return p.floor()

    def fractions(self, s: Samples) -> tuple[Tensor, Tensor]:
        return s.y - self.floor(s.y), s.x - self.floor(s.x)

    def corner_index(self, y: Tensor, x: Tensor, corner: Pair, a: Arguments) -> tuple[Tensor, Tensor]:
        """Return the flat pixel index of a corner, and whether that pixel exists."""
        rows, columns = a.input.shape[2:]
        row, column = self.floor(y).long() + corner[0], self.floor(x).long() + corner[1]
        inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        return row.clamp(0, rows - 1) * columns + column.clamp(0, columns - 1), inside

    def sample(self, a: Arguments) -> Samples:
        y, x = self.positions(a)
        live = self.live(y, x, a)
        y, x = self.quiet(y, live), self.quiet(x, live)
        pixels = self.grouped_image(a)
        corners = []
        for corner in CORNERS:
            index, inside = self.corner_index(y, x, corner, a)
            gathered = _gather(pixels, index)
            corners.append(gathered * (inside & live).unsqueeze(2))
        return Samples(y, x, live, self.modulation(a).to(pixels.dtype), corners)

    def quiet(self, p: Tensor, live: Tensor) -> Tensor:
        """Move the points that see nothing to a harmless place."""
        return torch.where(live, p, -2.0)

    def grouped_image(self, a: Arguments) -> Tensor:
        """Return the image (N, G, Cg, H*W), in the precision of the arithmetic."""
        image = a.input[:, self.channel_order(a)].to(_wide(a.input))
        return image.reshape(image.shape[0], self.offset_groups(a), -1, image.shape[2] * image.shape[3])

    def corner_weights(self, s: Samples) -> list[Tensor]:
        l_y, l_x = self.fractions(s)
        return [((1 - l_y) if i == 0 else l_y) * ((1 - l_x) if j == 0 else l_x) for i, j in CORNERS]

    def values(self, s: Samples) -> Tensor:
        return sum(
            (c * w.unsqueeze(2) for c, w in zip(s.corners, self.corner_weights(s), strict=True)), torch.zeros(())
        )

    # -- forward -------------------------------------------------------------------------------------------------
    def columns(self, s: Samples, a: Arguments) -> Tensor:
        """Return the modulated samples (N, C, K, Ho, Wo), in the storage precision, channels in their own order."""
        columns = (self.values(s) * s.modulation.unsqueeze(2)).flatten(1, 2)
        return columns[:, self.channel_order(a).argsort()].to(a.input.dtype)

    def dense_weight(self, a: Arguments) -> Tensor:
        """Return the weight (O, C, K), zero where an output channel does not see an input channel."""
        return a.weight.flatten(2).repeat(1, self.weight_groups(a), 1) * self.visible(a).unsqueeze(2)

    def weight_groups(self, a: Arguments) -> int:
        return a.input.shape[1] // a.weight.shape[1]

    def visible(self, a: Arguments) -> Tensor:
        """Return (O, C): does the output channel see the input channel."""
        out, channels, groups = a.weight.shape[0], a.input.shape[1], self.weight_groups(a)
        same = torch.arange(out).unsqueeze(1) * groups // out == torch.arange(channels) * groups // channels
        return same.to(a.weight.dtype)

    def forward(self, a: Arguments) -> Tensor:
        columns = self.columns(self.sample(a), a)
        y = torch.einsum("nckij,ock->noij", columns, self.dense_weight(a))
        return y if a.bias is None else y + self.bias(a).view(-1, 1, 1)

    def bias(self, a: Arguments) -> Tensor:
        assert a.bias is not None
        return a.bias

    # -- backward ------------------------------------------------------------------------------------------------
    def backward(self, grad: Tensor, a: Arguments) -> dict[str, Tensor | None]:
        s = self.sample(a)
        pull = self.pull(grad, a)
        d_y, d_x = self.grad_position(s, pull)
        return {
            "input": self.grad_input(s, pull, a),
            "offset": self.join_offsets(d_y, d_x).to(a.offset.dtype),
            "weight": self.grad_weight(grad, s, a),
            "bias": None if a.bias is None else self.grad_bias(grad, a),
            "mask": None if a.mask is None else self.grad_mask(s, pull).flatten(1, 2).to(a.mask.dtype),
        }

    def pull(self, grad: Tensor, a: Arguments) -> Tensor:
        """Return the gradient of each column entry, (N, G, Cg, K, Ho, Wo)."""
        pull = torch.einsum("noij,ock->nckij", grad, self.dense_weight(a))[:, self.channel_order(a)]
        return pull.unflatten(1, (self.offset_groups(a), -1)).to(_wide(grad))

    def slopes(self, s: Samples) -> tuple[Tensor, Tensor]:
        l_y, l_x = (f.unsqueeze(2) for f in self.fractions(s))
        v1, v2, v3, v4 = s.corners
        return (1 - l_x) * (v3 - v1) + l_x * (v4 - v2), (1 - l_y) * (v2 - v1) + l_y * (v4 - v3)

    def grad_position(self, s: Samples, pull: Tensor) -> tuple[Tensor, Tensor]:
        weighted = pull * self.offset_modulation(s).unsqueeze(2)
        slope_y, slope_x = self.slopes(s)
        return (weighted * slope_y).sum(2), (weighted * slope_x).sum(2)

    def offset_modulation(self, s: Samples) -> Tensor:
        return s.modulation

    def input_modulation(self, s: Samples) -> Tensor:
        return s.modulation

    def grad_mask(self, s: Samples, pull: Tensor) -> Tensor:
        return (pull * self.values(s)).sum(2)

    def grad_input(self, s: Samples, pull: Tensor, a: Arguments) -> Tensor:
        result = torch.zeros_like(self.grouped_image(a))
        spread = (pull * self.input_modulation(s).unsqueeze(2)).flatten(3)  # (N, G, Cg, K*Ho*Wo)
        for corner, weight in zip(CORNERS, self.corner_weights(s), strict=True):
            index, inside = self.corner_index(s.y, s.x, corner, a)
            part = spread * (weight * (inside & s.live)).flatten(2).unsqueeze(2)
            result = self.scatter(result, index.flatten(2).unsqueeze(2).expand_as(part), part)
        image = result.flatten(1, 2)[:, self.channel_order(a).argsort()]
        return image.reshape(a.input.shape).to(a.input.dtype)

    def scatter(self, result: Tensor, index: Tensor, part: Tensor) -> Tensor:
        return result.scatter_add(3, index, part)

    def grad_weight(self, grad: Tensor, s: Samples, a: Arguments) -> Tensor:
        dense = torch.einsum("noij,nckij->ock", grad, self.columns(s, a)) * self.visible(a).unsqueeze(2)
        return dense.unflatten(1, (self.weight_groups(a), -1)).sum(1).reshape(a.weight.shape)

    def grad_bias(self, grad: Tensor, a: Arguments) -> Tensor:
        return grad.sum((0, 2, 3))


class _Call(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, model: PlainDeformConv2d, *arguments: Any) -> Tensor:
        ctx.model, ctx.arguments = model, Arguments(*arguments)
        return model.forward(ctx.arguments)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        found = ctx.model.backward(grad, ctx.arguments)
        return None, *(found.get(name) for name in Arguments._fields)


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _gather(pixels: Tensor, index: Tensor) -> Tensor:
    """Pick `pixels` (N, G, Cg, H*W) at `index` (N, G, K, Ho, Wo)."""
    flat = index.flatten(2).unsqueeze(2).expand(-1, -1, pixels.shape[2], -1)
    return pixels.gather(3, flat).unflatten(3, index.shape[2:])
