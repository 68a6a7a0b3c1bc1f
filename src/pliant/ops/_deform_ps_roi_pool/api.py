# SPDX-License-Identifier: Apache-2.0
"""The public function: documentation, checks, and the choice of implementation."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pliant._geometry import pair
from pliant.ops._boxes import Boxes, as_rois
from pliant.ops._checks import check_image, integer, number
from pliant.ops._deform_ps_roi_pool.checks import check_arguments
from pliant.ops._deform_ps_roi_pool.contract import OPERATOR
from pliant.ops._deform_ps_roi_pool.reference import PSPooling
from pliant.ops._dispatch import Impl, overridable
from pliant.ops._recording import numbers_are_fixed


@overridable
def deform_ps_roi_pool(
    input: Tensor,
    boxes: Boxes,
    output_size: int | Sequence[int],
    output_channels: int,
    offset: Tensor | None = None,
    mask: Tensor | None = None,
    spatial_scale: float = 1.0,
    group_size: int = 1,
    part_size: int | Sequence[int] | None = None,
    samples_per_bin: int = 4,
    gamma: float = 0.1,
    *,
    impl: Impl = "auto",
) -> Tensor:
    r"""Average in each bin of a box the score map made for that bin, every bin moved by an offset of its class.

    .. math:: y(c; i, j) = \frac{\Delta m}{n} \sum_{p \in \mathit{bin}(i, j)} x_{c, g_i, g_j}(p + \Delta p), \qquad
        \Delta p = \gamma \cdot (w, h) \circ \mathit{offset}_{class(c)}(i, j)

    This is `DeformablePSROIPooling` of the papers' own code (R-FCN), sample for sample; with `group_size=1` all bins
    read the same map, which is the deformable RoI pooling of its Faster R-CNN. It differs from `deform_roi_pool`: box
    corners are rounded to whole pixels (halves away from zero), the last pixel belongs to the box, and a box is at
    least 0.1 pixels of input wide and high; the samples of a bin start at its corner; a sample more than half a pixel
    beyond the centres of the border pixels is left out and not counted, and a bin without samples is 0. A box or an
    offset that is NaN or infinite reads 0 and gets zero gradients.
    A pixel that is NaN or infinite makes NaN of the bins that read it; where it would count with weight 0, that depends
    on the implementation.

    Args:
        input: (N, output_channels * group_size**2, H, W) score maps: channel (c * group_size + row) * group_size +
            column holds output channel c for that row and column of groups; float16, bfloat16, float32 or float64.
        boxes: (R, 5) rows of (image, x1, y1, x2, y2) in pixels of the picture, or a list with the (L, 4) boxes of each
            image. Any floating type. Boxes get no gradient, since they are rounded.
        output_size: bins along the height and the width of a box, (Ph, Pw); an integer for both.
        output_channels: O, the channels of the result.
        offset: (R, 2*classes, part_h, part_w), or None for none. Channel 2*k is x of class k, in widths of the box
            times `gamma`; channel 2*k + 1 is y, in heights. The classes share the output channels out evenly, in
            order. Any floating type.
        mask: (R, classes, part_h, part_w), the modulation of each bin, usually in [0, 1]; or None. Any floating type.
        spatial_scale: pixels of input for one pixel of the boxes: 1/16 for a feature map of stride 16.
        group_size: bins (i, j) read group (i * group_size // Ph, j * group_size // Pw).
        part_size: the size (part_h, part_w) of offset and mask; an integer for both; None is `output_size`. Bin (i, j)
            uses part (i * part_h // Ph, j * part_w // Pw).
        samples_per_bin: samples along each side of a bin.
        gamma: what the offsets are multiplied by; 0.1 in the papers.
        impl: "auto" follows the device. "reference" is plain PyTorch, differentiable to any order; "native" (CPU) and
            "triton" (GPU) are the kernels. An explicit choice runs or raises; it never falls back.

    Returns:
        (R, output_channels, Ph, Pw) of input's type, contiguous.

    Note:
        Input, offset and mask get gradients. Along an axis on which a sample stands on a pixel, or is held at the
        border, its derivative is 0, as in the papers' code. The number of samples read is a step function of the
        offset with derivative 0. Second derivatives, and forward-mode derivatives, are computed through the reference,
        which keeps all samples in memory. Autocast changes nothing. Where boxes are on another device than the CPU,
        and in compiled graphs of the reference, a row that names no image reads 0, because looking at it would mean
        waiting for the device.

    Raises:
        TypeError: an argument is of the wrong kind, or its dtype is not one of the above.
        ValueError: shapes or devices do not fit, or a row of CPU boxes names no image; the message says what would.
        RuntimeError: `impl` names an implementation that cannot run here.

    Example:
        >>> import torch
        >>> from pliant.ops import deform_ps_roi_pool
        >>> scores = torch.arange(64.0).view(1, 4, 4, 4)  # four maps: one for each of 2x2 bins
        >>> boxes = torch.tensor([[0, 0.0, 0.0, 3.0, 3.0]])
        >>> deform_ps_roi_pool(scores, boxes, 2, 1, group_size=2, samples_per_bin=2).flatten().tolist()
        [1.25, 19.0, 40.25, 58.0]

    References:
        Deformable Convolutional Networks (arXiv 1703.06211), section 2.2, "Position-Sensitive (PS) RoI Pooling";
        Deformable ConvNets v2 (arXiv 1811.11168), section 3.2, for the modulation.
    """
    size = pair("output_size", output_size, minimum=1)
    part = size if part_size is None else pair("part_size", part_size, minimum=1)
    pooling = PSPooling(
        size,
        integer("output_channels", output_channels, 1),
        integer("group_size", group_size, 1),
        part,
        integer("samples_per_bin", samples_per_bin, 1),
        number("spatial_scale", spatial_scale, positive=True),
        number("gamma", gamma),
    )
    with numbers_are_fixed():
        check_image(input)
        rois = as_rois(boxes, input).detach()  # rounded, so that it has no gradient
        check_arguments(input, rois.shape[0], offset, mask, pooling)
    return OPERATOR.call(input, rois, offset, mask, pooling, impl)
