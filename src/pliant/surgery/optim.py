# SPDX-License-Identifier: Apache-2.0
"""Parameter groups for the optimizer: offset branches learn slower, normalization may decay differently."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from pliant._check import PliantError, fail
from pliant.nn import DeformConv2d

_NORMALIZATION = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def param_groups(
    model: nn.Module,
    lr: float,
    weight_decay: float,
    offset_lr_scale: float = 0.1,
    *,
    norm_weight_decay: float | None = None,
) -> list[dict[str, Any]]:
    """Return the trainable parameters of `model` as groups for `torch.optim`, the offset branches at a scaled rate.

    The groups are `base`, `norm` (only if `norm_weight_decay` is given) and `offset`, those that have parameters. Every
    parameter that requires a gradient is in exactly one of them, shared ones too. As in torchvision's reference
    detection training, biases decay like weights, and normalization layers too unless told otherwise.

    Args:
        model: any module; without deformable layers there is no `offset` group.
        lr: learning rate of the `base` and `norm` groups.
        weight_decay: weight decay of the `base` and `offset` groups.
        offset_lr_scale: the `offset` group learns at `lr * offset_lr_scale`. 0.1 is DCNv2's, 1 is DCNv1's and mmdet's.
        norm_weight_decay: weight decay of batch, instance, layer, group and RMS normalization, often 0; None treats
            them like all others.

    Returns:
        Dictionaries with `params`, `lr`, `weight_decay` and `name`, in the order above.

    Raises:
        ValueError: `offset_lr_scale` is negative.
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
    modules = list(model.modules())
    offset = _ids(layer.conv_offset for layer in modules if isinstance(layer, DeformConv2d))
    norm = _ids(m for m in modules if isinstance(m, _NORMALIZATION)) if norm_weight_decay is not None else set()
    groups: dict[str, dict[str, Any]] = {
        "base": {"params": [], "lr": lr, "weight_decay": weight_decay},
        "norm": {"params": [], "lr": lr, "weight_decay": norm_weight_decay},
        "offset": {"params": [], "lr": lr * offset_lr_scale, "weight_decay": weight_decay},
    }
    for parameter in model.parameters():  # each shared parameter once
        if parameter.requires_grad:
            name = "offset" if id(parameter) in offset else "norm" if id(parameter) in norm else "base"
            groups[name]["params"].append(parameter)
    found = [{**group, "name": name} for name, group in groups.items() if group["params"]]
    if not found:
        fix = "unfreeze some with requires_grad_()"
        fail("model", "must have a parameter that requires a gradient", type(model).__name__, fix, kind=PliantError)
    return found


def _ids(modules: Iterable[nn.Module]) -> set[int]:
    """The identities of the parameters in `modules`."""
    return {id(parameter) for module in modules for parameter in module.parameters()}
