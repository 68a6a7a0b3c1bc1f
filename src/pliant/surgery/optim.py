# SPDX-License-Identifier: Apache-2.0
"""Parameter groups for the optimizer: offset branches learn slower, normalization may decay differently."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from pliant._check import fail
from pliant.nn import DeformConv2d, DeformPSRoIPool, DeformRoIPool

# The papers' rates of the RoI pooling layers' offset branches: v1's single fully connected layer, and all others.
_SINGLE_LAYER_SCALE, _ROI_SCALE = 0.01, 1.0
_ORDER = ("base", "norm", "offset", "roi_offset")

_NORMALIZATION = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def param_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    offset_lr_scale: float = 0.1,
    *,
    roi_offset_lr_scale: float | None = None,
    norm_weight_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Return the trainable parameters of `model` as groups for `torch.optim`, the offset branches at a scaled rate.

    The groups are `base`, `norm` (only if `norm_weight_decay` is given), `offset` for the branches of convolutions and
    `roi_offset` for those of RoI pooling, those that have parameters. Every parameter that requires a gradient is in
    exactly one of them, shared ones too. As in torchvision's reference detection training, biases decay like weights,
    and normalization layers too unless told otherwise. A module with an attribute `lr_scale` asks for that factor on
    the learning rate of its parameters (offset branches excepted), as a layer of the official R-FCN does; a further
    `base` group holds them. `bias_lr_scale` of a module is a further factor for its bias alone, whatever the group, as
    the official DeepLab has it.

    Args:
        model: any module; without deformable layers there is no `offset` group.
        lr: learning rate of the `base` and `norm` groups.
        weight_decay: weight decay of all groups but `norm`.
        offset_lr_scale: the `offset` group learns at `lr * offset_lr_scale`. 0.1 is DCNv2's, 1 is DCNv1's and mmdet's.
        roi_offset_lr_scale: the `roi_offset` group learns at `lr * roi_offset_lr_scale`. None takes the papers': 0.01
            for DCNv1's branch of one fully connected layer, 1 for DCNv2's, mmcv's, and the convolution of
            position-sensitive pooling; a model with both kinds then has two groups of that name.
        norm_weight_decay: weight decay of batch, instance, layer, group and RMS normalization, often 0; None treats
            them like all others.

    Returns:
        Dictionaries with `params`, `lr`, `weight_decay` and `name`, in the order above.

    Raises:
        ValueError: a scale is negative.
        PliantError: no parameter of `model` requires a gradient.

    Example:
        >>> import torch, pliant
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3))
        >>> model = pliant.convert(model, "last1")
        >>> groups = pliant.param_groups(model, lr=0.02, weight_decay=1e-4)
        >>> [(group["name"], len(group["params"]), group["lr"]) for group in groups]
        [('base', 4, 0.02), ('offset', 2, 0.002)]
        >>> optimizer = torch.optim.SGD(groups, momentum=0.9)

    References:
        Deformable Convolutional Networks (arXiv 1703.06211), section 2.3.
        Deformable ConvNets v2 (arXiv 1811.11168), section 3.2.
    """
    if offset_lr_scale < 0:
        fail("offset_lr_scale", "must not be negative", offset_lr_scale, "use 0.1 (DCNv2) or 1.0 (DCNv1)")
    if roi_offset_lr_scale is not None and roi_offset_lr_scale < 0:
        fail("roi_offset_lr_scale", "must not be negative", roi_offset_lr_scale, "use 0.01 (DCNv1) or 1.0 (DCNv2)")
    modules = list(model.modules())
    offset = _ids(layer.conv_offset for layer in modules if isinstance(layer, DeformConv2d))
    roi_offset = _roi_scales(modules, roi_offset_lr_scale)
    own, bias = _own_scales(modules), _bias_scales(modules)
    norm = _ids(m for m in modules if isinstance(m, _NORMALIZATION)) if norm_weight_decay is not None else set()
    groups: dict[tuple[str, float], list[nn.Parameter]] = {}
    for parameter in model.parameters():  # each shared parameter once
        if parameter.requires_grad:
            key = id(parameter)
            name, scale = "norm" if key in norm else "base", own.get(key, 1.0)
            if key in offset:
                name, scale = "offset", offset_lr_scale
            elif key in roi_offset:
                name, scale = "roi_offset", roi_offset[key]
            groups.setdefault((name, scale * bias.get(key, 1.0)), []).append(parameter)
    if not groups:
        fix = "unfreeze some with requires_grad_()"
        fail("model", "must have a parameter that requires a gradient", type(model).__name__, fix)
    return [
        {
            "params": groups[name, scale],
            "lr": lr * scale,
            "weight_decay": norm_weight_decay if name == "norm" else weight_decay,
            "name": name,
        }
        for name, scale in sorted(groups, key=lambda group: (_ORDER.index(group[0]), group[1]))
    ]


def _roi_scales(modules: Iterable[nn.Module], given: float | None) -> dict[int, float]:
    """The learning-rate scale of each parameter in an offset branch of RoI pooling, by the parameter's identity."""
    scales: dict[int, float] = {}
    for module in modules:
        if isinstance(module, DeformPSRoIPool | DeformRoIPool):
            single = isinstance(module, DeformRoIPool) and module.has_single_layer
            scale = given if given is not None else _SINGLE_LAYER_SCALE if single else _ROI_SCALE
            # A layer's parameters are all of its offset branch.
            scales.update(dict.fromkeys(_ids([module]), scale))
    return scales


def _own_scales(modules: Iterable[nn.Module]) -> dict[int, float]:
    """The factor that modules ask for by `lr_scale`, by the parameter's identity; the innermost module decides."""
    scales: dict[int, float] = {}
    for module in modules:  # outer ones come first
        if isinstance(scale := getattr(module, "lr_scale", None), int | float):
            scales.update(dict.fromkeys(_ids([module]), scale))
    return scales


def _bias_scales(modules: Iterable[nn.Module]) -> dict[int, float]:
    """The factor that modules ask for by `bias_lr_scale`, by the bias's identity."""
    asked = ((getattr(module, "bias", None), getattr(module, "bias_lr_scale", None)) for module in modules)
    return {id(bias): scale for bias, scale in asked if bias is not None and isinstance(scale, int | float)}


def _ids(modules: Iterable[nn.Module]) -> set[int]:
    """The identities of the parameters in `modules`."""
    return {id(parameter) for module in modules for parameter in module.parameters()}
