# SPDX-License-Identifier: Apache-2.0
"""Deformable RoI pooling as a layer that predicts where the bins of each region go, and how much each counts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal, NoReturn, get_args

import torch
from torch import Tensor, nn

from pliant._check import counted, fail, fail_because, shown
from pliant._geometry import pair
from pliant.nn.offset_branch import HiddenLinear, OffsetLinear
from pliant.ops import deform_roi_pool
from pliant.ops._boxes import Boxes
from pliant.ops._checks import integer, number

Branch = Literal["paper", "mmcv"]
LARGEST_SCALE = 64  # of a map to a picture: more is a mistake, such as mmcv's third argument, the hidden channels


class DeformRoIPool(nn.Module):
    r"""RoI pooling whose bins follow the image: shifts and weights come from layers on the region, plainly pooled.

    .. math:: y(k) = \frac{\Delta m_k}{n_k} \sum_{j=1}^{n_k} x(p_{kj} + \Delta p_k), \quad
              \Delta p_k = \gamma \cdot \Delta \hat p_k \circ (w, h)

    Each region is pooled once without offsets; fully connected layers on the result give each of its K = Ph*Pw bins an
    offset in units of the region's size times `gamma` and, in v2, a weight from a sigmoid; then it is pooled again.
    The last layer of the branch starts at zero, so that v1 starts as RoIAlign and v2 as half of it; the layers before
    it start with N(0, 0.01^2), biases with zero. Samples outside the map are those of `pliant.ops.deform_roi_pool`: up
    to one cell outside they read the border, further away 0.

    Args:
        output_size: bins of a region, an integer or (Ph, Pw).
        in_channels: C, channels of the feature map.
        spatial_scale: cells of the map per pixel of the boxes, 1/16 for a map of stride 16.
        sampling_ratio: samples per bin and axis; 0 takes as many as the bin is cells wide, rounded up. The v2 paper
            has 2.
        gamma: factor on the offsets; 0.1 in the papers.
        modulated: v2 (offsets and weights) if true, v1 (offsets alone) if false.
        hidden_channels: width of the hidden layers, of which the v1 paper's branch has none.
        branch: "paper" is one layer with 2K outputs (v1), or two hidden layers and one with 3K outputs, the offsets
            before the weights (v2). "mmcv" has its layers and names, so that the state dicts of its
            `DeformRoIPoolPack` and `ModulatedDeformRoIPoolPack` load: two hidden layers and one of 2K outputs,
            `offset_fc`, and in v2 beside it one hidden layer and one of K outputs, `mask_fc`.
        device: where the parameters are made, as for `torch.nn.Linear`.
        dtype: their type.

    Shape:
        input (N, C, H, W); boxes (R, 5) of image index, x1, y1, x2, y2 in pixels, or a list of (Li, 4), one for each
        image; output (R, C, Ph, Pw).

    Raises:
        TypeError: an argument is of the wrong kind.
        ValueError: a size is below 1, `spatial_scale` is no scale, or `branch` is neither of the two.

    Example:
        >>> import torch
        >>> from pliant.nn import DeformRoIPool
        >>> pool = DeformRoIPool(7, in_channels=16, spatial_scale=1 / 8)
        >>> pool(torch.rand(2, 16, 20, 25), [torch.tensor([[8.0, 16.0, 90.0, 120.0]]), torch.zeros(0, 4)]).shape
        torch.Size([1, 16, 7, 7])

    References:
        Deformable Convolutional Networks (arXiv 1703.06211), section 2.2;
        Deformable ConvNets v2 (arXiv 1811.11168), section 3.2, Eq. 2.
    """

    offset_fc: nn.Sequential
    mask_fc: nn.Sequential | None

    def __init__(
        self,
        output_size: int | Sequence[int],
        in_channels: int,
        spatial_scale: float = 1.0,
        sampling_ratio: int = 0,
        gamma: float = 0.1,
        *,
        modulated: bool = True,
        hidden_channels: int = 1024,
        branch: Branch = "paper",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.output_size = pair("output_size", output_size, minimum=1)
        in_channels = integer("in_channels", in_channels, 1)
        hidden_channels = integer("hidden_channels", hidden_channels, 1)
        self.in_channels, self.hidden_channels = in_channels, hidden_channels
        self.spatial_scale = number("spatial_scale", spatial_scale, positive=True)
        if self.spatial_scale > LARGEST_SCALE:
            fix = "write spatial_scale=1/16 for a map of stride 16, and hidden_channels= by its name"
            fail("spatial_scale", "must be cells of the map for one pixel of the boxes", shown(spatial_scale), fix)
        self.sampling_ratio, self.gamma = integer("sampling_ratio", sampling_ratio), number("gamma", gamma)
        self.modulated, self.branch = modulated, branch
        if branch not in get_args(Branch):
            fail("branch", "must be 'paper' or 'mmcv'", repr(branch), "use 'mmcv' for checkpoints of mmcv and mmdet")
        bins = self.output_size[0] * self.output_size[1]
        pooled, hidden = in_channels * bins, hidden_channels
        separate = modulated and branch == "mmcv"
        widths = [pooled, 2 * bins] if self.has_single_layer else [pooled, hidden, hidden, 2 * bins]
        widths[-1] += bins if modulated and not separate else 0
        self.offset_fc = _perceptron(widths, device, dtype)
        self.mask_fc = _perceptron([pooled, hidden, bins], device, dtype) if separate else None

    @property
    def has_single_layer(self) -> bool:
        """Whether the branch is the v1 paper's, one layer, which learns at 0.01 of the base rate there."""
        return self.branch == "paper" and not self.modulated

    def reset_parameters(self) -> None:
        """Set the last layer of the branch to zero and those before it to N(0, 0.01^2)."""
        for layers in (self.offset_fc, self.mask_fc):
            for layer in layers or ():
                if isinstance(layer, nn.Linear):
                    layer.reset_parameters()

    def offset_and_mask(
        self, input: Tensor, boxes: Boxes, spatial_scale: float | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the offsets (R, 2, Ph, Pw), x before y, and the weights (R, 1, Ph, Pw), or None in v1.

        Offsets are those of the operator: `gamma` times the region's width and height is their unit.
        """
        if input.dim() == 4 and input.shape[1] != self.in_channels:
            fix = "build the layer with the map's channels"
            rule = f"must have the layer's {counted(self.in_channels, 'channel')}"
            fail("input", rule, counted(input.shape[1], "channel"), fix)
        pooled = self._pool(input, boxes, None, None, spatial_scale).flatten(1)
        maps = 3 if self.modulated and self.mask_fc is None else 2  # a number, since exporters divide nothing by R = 0
        prediction: Tensor = self.offset_fc(pooled).unflatten(1, (maps, *self.output_size))  # (R, maps, Ph, Pw)
        if self.mask_fc is not None:
            logits: Tensor = self.mask_fc(pooled).unflatten(1, (1, *self.output_size))
            return prediction, logits.sigmoid()
        return prediction[:, :2], prediction[:, 2:].sigmoid() if self.modulated else None

    def forward(self, input: Tensor, boxes: Boxes, spatial_scale: float | None = None) -> Tensor:
        """Return the pooled regions; `spatial_scale` replaces the layer's, where several maps are pooled."""
        offset, mask = self.offset_and_mask(input, boxes, spatial_scale)
        return self._pool(input, boxes, offset, mask, spatial_scale)

    def _pool(
        self, input: Tensor, boxes: Boxes, offset: Tensor | None, mask: Tensor | None, spatial_scale: float | None
    ) -> Tensor:
        scale = self.spatial_scale if spatial_scale is None else spatial_scale
        return deform_roi_pool(input, boxes, self.output_size, offset, mask, scale, self.sampling_ratio, self.gamma)

    def __prepare_scriptable__(self) -> NoReturn:
        refuse_script(type(self).__name__)

    def extra_repr(self) -> str:
        """Return the arguments, those after `sampling_ratio` where they differ from the defaults."""
        parts = [f"{self.output_size}, {self.in_channels}, spatial_scale={self.spatial_scale:g}"]
        parts += [f"sampling_ratio={self.sampling_ratio}"]
        parts += [f"gamma={self.gamma}"] * (self.gamma != 0.1)
        parts += ["modulated=False"] * (not self.modulated)
        parts += [f"branch={self.branch!r}"] * (self.branch != "paper")
        return ", ".join(parts)


def _perceptron(widths: Sequence[int], device: torch.device | str | None, dtype: torch.dtype | None) -> nn.Sequential:
    """Return fully connected layers between `widths`, a ReLU between each two; the last one starts at zero."""
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths[:-1]):
        layers += [HiddenLinear(inputs, outputs, device=device, dtype=dtype), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, OffsetLinear(widths[-2], widths[-1], device=device, dtype=dtype))


def refuse_script(layer: str) -> NoReturn:
    """Raise an error that says what works instead of TorchScript's compiler, which cannot compile layers of regions."""
    fix = "use torch.jit.trace or torch.export"
    fail_because(layer, "must be traced, not scripted", "TorchScript cannot say that boxes are a tensor or a list", fix)
