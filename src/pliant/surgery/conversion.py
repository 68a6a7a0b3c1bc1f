# SPDX-License-Identifier: Apache-2.0
"""Convert the convolutions of a model to deformable ones in place, and back."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TypeVar, cast

from torch import nn
from torch.nn.utils import parametrize

from pliant._check import fail, fail_because, hint_at_names
from pliant.nn import DeformConv2d
from pliant.surgery.layer import Options, share_hooks, to_convolution, to_deformable, was_converted
from pliant.surgery.planning import HINTS, Plan, check_model, plan
from pliant.surgery.select import Where

Model = TypeVar("Model", bound=nn.Module)


@hint_at_names("convert", HINTS)
def convert(
    model: Model,
    where: Where,
    *,
    modulated: bool = True,
    offset_groups: int = 1,
    mask_scale: float = 2.0,
    offset_limit: float | None = None,
) -> Model:
    r"""Replace the convolutions that `where` means by deformable ones that start with the same output.

    Each new layer takes over the Parameter objects of its convolution (an optimizer built before still trains them),
    its hooks, mode, dtype and device, and adds an offset branch of zeros, :math:`\Delta p = 0` and
    :math:`\Delta m = s \cdot \mathrm{sigmoid}(0) = s / 2`, which is 1 for the default s = 2. The state dict keeps its
    keys and gains `conv_offset.weight` and `conv_offset.bias` for each layer. A convolution under several names stays
    one layer under several names. Converting twice changes nothing.

    The submodules are replaced inside `model`, since detectors, optimizers and averaged copies hold on to it; for a
    copy write `convert(copy.deepcopy(model), ...)`. Only a model that is itself a convolution cannot be replaced
    from inside: use the returned value. A convolution kept outside the module tree, in a list say, is not seen.

    Args:
        model: any module; torchvision's, timm's or one's own.
        where: stages (`"c3-c5"`), a count (`"last3"`), a regular expression or a predicate, as in `plan`.
        modulated: v2 (offsets and modulation) if true, v1 (offsets alone) if false.
        offset_groups: groups of input channels with offsets of their own; must divide the channels of each layer.
        mask_scale: s, the upper bound of the modulation. 2.0 is the official code's and keeps the output; 1.0 is the
            v2 paper's and mmcv's, halves every converted layer at the start, and warns.
        offset_limit: None, or so many input pixels that offsets stay within, by a tanh; see `pliant.nn.DeformConv2d`.

    Returns:
        `model`, or the new layer if `model` itself was converted.

    Raises:
        PliantError: `where` means no convolution that can be converted; near misses or reasons are named. Also if a
            layer is deformable already, by other options: `revert` it first.
        TypeError: `model` is a script, compiled, sharded or wrapped in DistributedDataParallel.
        ValueError: `offset_groups`, `mask_scale` or `offset_limit` does not fit; `model` is left as it was.

    Example:
        >>> import torch, pliant
        >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3)).eval()
        >>> image = torch.rand(1, 3, 9, 11)
        >>> before = model(image)
        >>> model = pliant.convert(model, "last1")
        >>> torch.allclose(model(image), before, atol=1e-5)
        True

    References:
        Deformable Convolutional Networks (arXiv 1703.06211), section 2.3.
        Deformable ConvNets v2 (arXiv 1811.11168), section 3.2.
    """
    options = Options(modulated, offset_groups, mask_scale, offset_limit)
    planned = plan(model, where, modulated=modulated, offset_groups=offset_groups)
    _check_plan(model, planned, options)
    layers: dict[nn.Module, nn.Module] = {}
    for row in planned:
        conv = cast(nn.Conv2d, model.get_submodule(row.name))
        layers[conv] = to_deformable(conv, options)
    if layers and modulated and mask_scale != 2.0:
        warnings.warn(
            f"mask_scale={mask_scale} starts each converted layer at {mask_scale / 2} times its output; "
            "use mask_scale=2.0 to keep the model's output",
            stacklevel=3,
        )
    return cast(Model, _replace(model, layers))


def revert(model: Model) -> Model:
    """Undo `convert`: put back every convolution, of its own class, and drop the offset branches.

    The Parameters stay the same objects, so weights trained meanwhile are kept and weights not trained are the
    original bits. Hooks, sharing, mode and the arguments of the convolution (padding as text, ...) come back too, and
    what pruning or a normalization of weights by hooks has put in the place of a weight. It works on copies and
    pickles of converted models. Deformable layers that `convert` did not make are left alone, and a model without
    converted layers is returned as it is.

    Args:
        model: a model that `convert` returned, or a part of one.

    Returns:
        `model`, or the convolution if `model` itself was converted.

    Raises:
        TypeError: `model` is a script, compiled, sharded or wrapped in DistributedDataParallel.
        PliantError: a converted layer is parametrized, as by `torch.nn.utils.parametrizations.weight_norm`.

    Example:
        >>> import torch, pliant
        >>> model = pliant.convert(torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3)), "last1")
        >>> pliant.revert(model)
        Sequential(
          (0): Conv2d(3, 8, kernel_size=(3, 3), stride=(1, 1))
        )
    """
    check_model(model)
    converted = [module for module in model.modules() if was_converted(module)]
    _check_not_parametrized(model)
    convolutions: dict[nn.Module, nn.Module] = {layer: to_convolution(layer) for layer in converted}
    for layer, conv in convolutions.items():
        share_hooks(layer, conv)
    return cast(Model, _replace(model, convolutions))


def _check_not_parametrized(model: nn.Module) -> None:
    """Refuse converted layers whose class `torch.nn.utils.parametrize` has replaced by one of its own."""
    for name, module in model.named_modules():
        if was_converted(module) and parametrize.is_parametrized(module):
            which = ", ".join(repr(key) for key in module.parametrizations)
            fix = "call torch.nn.utils.parametrize.remove_parametrizations(layer, name) for each first"
            fail_because("model", "must have no parametrized deformable layer", f"{name!r} has {which}", fix)


def _check_plan(model: nn.Module, planned: Plan, options: Options) -> None:
    """Refuse a plan that does nothing, unless all is done already, or that meets layers with other options."""
    matched = [(skipped.name, model.get_submodule(skipped.name)) for skipped in planned.skipped]
    done = [(name, module) for name, module in matched if isinstance(module, DeformConv2d)]
    for name, layer in done:
        if was_converted(layer) and not options.agree_with(Options.of(layer)):
            rule = f"must be those that {name or 'the model'} was converted with, {Options.of(layer)}"
            fail("options", rule, options, "write model = pliant.revert(model) first")
    if not planned.rows and not done:
        reasons = "; ".join(list(dict.fromkeys(f"{each.name}: {each.reason}" for each in planned.skipped))[:3])
        fix = "print pliant.plan(model, where) for all reasons, or choose others"
        rule = "must mean a convolution that can be converted"
        fail_because("where", rule, f"none of {len(planned.skipped)} can ({reasons})", fix)


def _replace(model: nn.Module, new: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Put `new[module]` wherever `module` is registered below `model`; return what stands for `model` itself."""
    # All parents and all their names: a module may be registered twice, in one parent or in two.
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None and child in new:
                parent._modules[name] = new[child]
    return new.get(model, model)
