# SPDX-License-Identifier: Apache-2.0
"""The public function: documentation, checks, and the choice of implementation."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pliant._geometry import pair
from pliant.ops._boxes import Boxes, as_rois
from pliant.ops._checks import check_image, integer, number
from pliant.ops._deform_roi_pool import recorded
from pliant.ops._deform_roi_pool.checks import check_arguments
from pliant.ops._deform_roi_pool.contract import OPERATOR
from pliant.ops._deform_roi_pool.reference import Pooling
from pliant.ops._dispatch import Impl, overridable
from pliant.ops._recording import numbers_are_fixed, records_onnx, records_trace


@overridable
def deform_roi_pool(
    input: Tensor,
    boxes: Boxes,
    output_size: int | Sequence[int],
    offset: Tensor | None = None,
    mask: Tensor | None = None,
    spatial_scale: float = 1.0,
    sampling_ratio: int = 0,
    gamma: float = 0.1,
    *,
    impl: Impl = "auto",
) -> Tensor:
    r"""Average the image in the bins of each box, every bin moved by a learned offset (v1) and weighed (v2).

    .. math:: y(k) = \frac{\Delta m_k}{n_k} \sum_{j=1}^{n_k} x(p_{kj} + \Delta p_k), \qquad
        \Delta p_k = \gamma \cdot (w, h) \circ \mathit{offset}_k

    Bins and samples are RoIAlign's: without offset and mask this is `torchvision.ops.roi_align(..., aligned=True)`, and
    it is mmcv's `deform_roi_pool` with them. A box is multiplied by `spatial_scale` and moved half a pixel to pixel
    centres; it is neither rounded nor given a least size. A bin holds a grid of n_k samples, each bilinear between
    four pixels. A sample up to one pixel outside the image reads its border, and one further away 0. Both count in n_k.
    A box or an offset that is NaN or infinite reads 0 and gets zero gradients.
    A pixel that is NaN or infinite makes NaN of the bins that read it; where it would count with weight 0, that depends
    on the implementation.

    Args:
        input: (N, C, H, W) feature maps; float16, bfloat16, float32 or float64.
        boxes: (R, 5) rows of (image, x1, y1, x2, y2) in pixels of the picture, or a list with the (L, 4) boxes of each
            image. Any floating type; coordinates are kept and computed in float32, or float64 where input is.
        output_size: bins along the height and the width of a box, (Ph, Pw); an integer for both.
        offset: (R, 2, Ph, Pw), or None for none. Channel 0 is x, in widths of the box times `gamma`; channel 1 is y,
            in heights. Any floating type.
        mask: (R, 1, Ph, Pw), the modulation of each bin, usually in [0, 1]; or None, which is v1. Any floating type.
        spatial_scale: pixels of input for one pixel of the boxes: 1/16 for a feature map of stride 16.
        sampling_ratio: samples along each side of a bin. 0 or less lets each box have ceil(h / Ph) rows of ceil(w / Pw)
            samples, about one a pixel; never more than 32768 a side, which only a bin of more pixels would ask for.
        gamma: what the offsets are multiplied by; 0.1 in the papers.
        impl: "auto" follows the device. "reference" is plain PyTorch, differentiable to any order; "native" (CPU) and
            "triton" (GPU) are the kernels. An explicit choice runs or raises; it never falls back.

    Returns:
        (R, C, Ph, Pw) of input's type, contiguous.

    Note:
        Input, offset, mask and **boxes** get gradients. On a pixel the derivative of a sample is the right-hand one;
        it is 0 where the sample is held at the border. The number of samples is a step function of the box with
        derivative 0. Second derivatives, and forward-mode derivatives, are computed through the reference, which keeps
        all samples in memory. The work for a box, however large, is bounded by that for the samples inside the image.
        Autocast changes nothing. Where boxes are on another device than the CPU, and in compiled graphs of the
        reference, a row that names no image reads 0, because looking at it would mean waiting for the device.

    Raises:
        TypeError: an argument is of the wrong kind, or its dtype is not one of the above.
        ValueError: shapes or devices do not fit, or a row of CPU boxes names no image; the message says what would.
        RuntimeError: `impl` names an implementation that cannot run here.

    Example:
        >>> import torch
        >>> from pliant.ops import deform_roi_pool
        >>> x = torch.arange(16.0).view(1, 1, 4, 4)
        >>> boxes, offset = torch.tensor([[0, 0.0, 0.0, 4.0, 4.0]]), torch.zeros(1, 2, 2, 2)
        >>> deform_roi_pool(x, boxes, 2, offset).flatten().tolist()
        [2.5, 4.5, 10.5, 12.5]
        >>> offset[:, 0, 0, 0] = 2.5  # moves the first bin by 2.5 * gamma * 4 pixels = 1 pixel to the right
        >>> deform_roi_pool(x, boxes, 2, offset).flatten().tolist()
        [3.5, 4.5, 10.5, 12.5]

    References:
        Deformable Convolutional Networks (arXiv 1703.06211), section 2.2, Eq. 5-6;
        Deformable ConvNets v2 (arXiv 1811.11168), section 3.2, Eq. 2.
    """
    size = pair("output_size", output_size, minimum=1)
    scale, factor = number("spatial_scale", spatial_scale, positive=True), number("gamma", gamma)
    pooling = Pooling(size, scale, integer("sampling_ratio", sampling_ratio), factor)
    with numbers_are_fixed():
        check_image(input)
        rois = as_rois(boxes, input)
        check_arguments(input, rois.shape[0], offset, mask, pooling)
    if impl == "auto" and records_trace(input, rois, offset, mask):
        return recorded.as_roi_align(input, rois, offset, mask, pooling, recorded.by_torchvision)
    if impl == "auto" and records_onnx(input, rois, offset, mask):
        return recorded.as_roi_align(input, rois, offset, mask, pooling, recorded.by_onnx)
    return OPERATOR.call(input, rois, offset, mask, pooling, impl)
