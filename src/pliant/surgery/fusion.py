# SPDX-License-Identifier: Apache-2.0
"""Fold the batch normalization behind a deformable convolution into its weights, for inference."""

from __future__ import annotations

from collections import Counter
from typing import TypeVar, cast

from torch import fx, nn
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_weights

from pliant._check import fail_because
from pliant.nn import DeformConv2d
from pliant.surgery.layer import forget_convolution
from pliant.surgery.planning import check_model

Model = TypeVar("Model", bound=nn.Module)

# By name, since not all are PyTorch's: torchvision's with fixed statistics, and timm's, which has an activation behind.
_NORMS = ("BatchNorm2d", "FrozenBatchNorm2d", "BatchNormAct2d")


def fuse(model: Model) -> Model:
    r"""Return the model with each batch normalization right after a deformable convolution folded into its weights.

    With mean :math:`\mu`, variance :math:`\sigma^2`, scale :math:`\gamma` and shift :math:`\beta` of the normalization,

    .. math:: w' = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}} w, \quad
              b' = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}} (b - \mu) + \beta

    as `torch.nn.utils.fuse_conv_bn_eval` does for `torch.nn.Conv2d`. The output stays the same up to rounding, and one
    pass over it is saved. The model is changed in place: it is for inference, cannot be trained as before, and `revert`
    leaves fused layers alone. Offset branches stay as they are.

    A normalization is folded where the forward of the module that holds both is seen to hand it the convolution's
    output and to use that output nowhere else (by `torch.fx`, which looks at that one module). Where this cannot be
    seen, or where a layer is shared, has hooks or is parametrized, both are left as they were.

    Args:
        model: any module in evaluation mode.

    Raises:
        PliantError: the model is in training mode, in which a normalization follows the batch.
        TypeError: `model` is a script, compiled, sharded or wrapped in DistributedDataParallel.

    Example:
        >>> import torch, pliant
        >>> model = torch.nn.Sequential(pliant.nn.DeformConv2d(3, 8, 3), torch.nn.BatchNorm2d(8)).eval()
        >>> image = torch.rand(1, 3, 9, 11)
        >>> before = model(image)
        >>> torch.allclose(pliant.fuse(model)(image), before, atol=1e-5)
        True
        >>> model[1]
        Identity()

    References:
        Deformable Convolutional Networks (arXiv 1703.06211), section 2.1: the layer; the folding is no part of it.
    """
    check_model(model)
    if any(module.training for module in model.modules()):
        fix = "call model.eval() first"
        fail_because("model", "must be in evaluation mode", "a part of it is in training mode", fix)
    uses = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    for parent in list(model.modules()):
        for name, norm_name in _pairs(parent):
            layer, norm = getattr(parent, name), getattr(parent, norm_name)
            if uses[id(layer)] == uses[id(norm)] == uses[id(parent)] == 1 and _is_plain(layer) and _is_plain(norm):
                _fold(layer, cast(nn.BatchNorm2d, norm))
                setattr(parent, norm_name, _rest(norm))
    return model


def _pairs(parent: nn.Module) -> list[tuple[str, str]]:
    """Return the names of children of `parent`: a deformable convolution, and the normalization behind."""
    children = dict(parent.named_children())
    if not any(isinstance(child, DeformConv2d) for child in children.values()):
        return []
    graph = _graph_of(parent)
    if graph is None:
        return []
    found = []
    for node in graph.nodes:
        if node.op != "call_module" or not isinstance(children.get(node.target), DeformConv2d) or len(node.users) != 1:
            continue
        (user,) = node.users
        is_norm = user.op == "call_module" and type(children.get(user.target)).__name__ in _NORMS
        if is_norm and user.args == (node,) and not user.kwargs:
            found.append((node.target, user.target))
    called = Counter(node.target for node in graph.nodes if node.op == "call_module")
    return [(a, b) for a, b in found if called[a] == called[b] == 1]


def _graph_of(parent: nn.Module) -> fx.Graph | None:
    """Return what the forward of `parent` does with its children, or None where it cannot be traced."""

    class Tracer(fx.Tracer):
        def is_leaf_module(self, module: nn.Module, name: str) -> bool:
            return True

    try:
        return Tracer().trace(parent)
    except (fx.proxy.TraceError, TypeError, ValueError, RuntimeError, NotImplementedError):
        return None  # a forward that depends on values


def _is_plain(module: nn.Module) -> bool:
    hooks = (value for key, value in vars(module).items() if key.endswith("_hooks"))
    has_statistics = isinstance(module, DeformConv2d) or module.running_mean is not None
    return has_statistics and not parametrize.is_parametrized(module) and not any(hooks)


def _fold(layer: DeformConv2d, norm: nn.BatchNorm2d) -> None:
    assert norm.running_mean is not None and norm.running_var is not None
    weight, bias = fuse_conv_bn_weights(
        layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    layer.weight, layer.bias = weight, bias
    forget_convolution(layer)


def _rest(norm: nn.Module) -> nn.Module:
    """Return what a normalization does beside normalizing."""
    if type(norm).__name__ == "BatchNormAct2d":
        return nn.Sequential(norm.drop, norm.act)  # type: ignore[arg-type]
    return nn.Identity()
