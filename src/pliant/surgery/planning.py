# SPDX-License-Identifier: Apache-2.0
"""The plan of a conversion: what would become deformable, at what cost in parameters, and what would not and why."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from pliant._check import fail, hint_at_names, in_columns
from pliant.surgery.layer import Options, blueprint, why_not
from pliant.surgery.select import Where, is_spatial, select

Pair = tuple[int, int]
INDENT = "  "  # of the tables in a printed plan
HEAD = ("name", "from", "to", "kernel", "stride", "dilation", "groups", "parameters")
HINTS = dict.fromkeys(("deform_groups", "deformable_groups"), "write offset_groups= in its place")


@dataclass(frozen=True)
class Row:
    """A convolution that becomes deformable.

    Attributes:
        name: its first name in the model; "" is the model itself.
        aliases: its further names, where it is shared.
        kind: its class, `Conv2d` or a subclass.
        kernel_size: taps, (vertical, horizontal).
        stride: input pixels per output pixel, (vertical, horizontal).
        dilation: input pixels between taps, (vertical, horizontal).
        groups: weight groups, kept by the deformable layer.
        added_parameters: weights and biases of the offset branch.
    """

    name: str
    aliases: tuple[str, ...]
    kind: str
    kernel_size: Pair
    stride: Pair
    dilation: Pair
    groups: int
    added_parameters: int


@dataclass(frozen=True)
class Skipped:
    """A convolution that `where` means and that stays as it is, with the reason."""

    name: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """What `convert` would do: `rows` become deformable, `skipped` stay. Printed, it is a table.

    Its length is the number of rows, and iterating it gives them.
    """

    rows: tuple[Row, ...]
    skipped: tuple[Skipped, ...]

    @property
    def added_parameters(self) -> int:
        """Return the number of weights and biases that the offset branches add."""
        return sum(row.added_parameters for row in self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __str__(self) -> str:
        lines = [f"to convert: {len(self)}, with {self.added_parameters:,} added parameters"]
        if self.rows:
            lines += in_columns([HEAD, *map(_cells, self.rows)], INDENT)
        if self.skipped:
            lines += [f"skipped: {len(self.skipped)}"]
            lines += in_columns([(_shown(s.name), s.kind, s.reason) for s in self.skipped], INDENT)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Return the table as a notebook shows it."""
        parts = [f"<p>to convert: {len(self)}, with {self.added_parameters:,} added parameters</p>"]
        if self.rows:
            parts.append(_html_table(HEAD, map(_cells, self.rows)))
        if self.skipped:
            rows = ((_shown(s.name), s.kind, s.reason) for s in self.skipped)
            parts += [f"<p>skipped: {len(self.skipped)}</p>", _html_table(("name", "kind", "reason"), rows)]
        return "".join(parts)


@hint_at_names("plan", HINTS)
def plan(model: nn.Module, where: Where, *, modulated: bool = True, offset_groups: int = 1) -> Plan:
    r"""Tell what `convert` with the same arguments would do, as rows to iterate or a table to print; change nothing.

    Args:
        model: any module; torchvision's, timm's or one's own.
        where: which convolutions.

            - `"c3-c5"`, `"c5"`: stages. In a ResNet C2 to C5 are `layer1` to `layer4`; in other networks Cn is
              the blocks whose output has stride 2**n. Of a detector the stages of its backbone are meant.
            - `"last3"`: the last three in registration order, again of a detector's backbone.
            - any other text: a regular expression, searched anywhere in the name (anchor it with `^` and `$`).
            - a predicate `(name, module) -> bool`, asked about every convolution.

            Stages, counts and regular expressions mean convolutions with more than one tap; only a predicate can
            choose 1x1.
        modulated: v2 (offsets and modulation) if true, v1 (offsets alone) if false.
        offset_groups: groups of input channels with offsets of their own; must divide the channels of each layer.

    Raises:
        PliantError: `where` means no convolution of `model`; near misses are named.
        TypeError: `model` is a script, compiled, sharded or wrapped in DistributedDataParallel.
        ValueError: `offset_groups` does not fit a layer.

    Example:
        >>> from torch import nn
        >>> import pliant
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
        >>> print(pliant.plan(model, "last1"))
        to convert: 1, with 1,971 added parameters
          name  from    to            kernel  stride  dilation  groups  parameters
          2     Conv2d  DeformConv2d  3x3     1x1     1x1       1       +1,971

    References:
        Deformable ConvNets v2 (arXiv 1811.11168), section 3.1, for the choice of stages.
    """
    check_model(model)
    options = Options(modulated, offset_groups, mask_scale=1.0)  # the scale adds no parameter
    rows: list[Row] = []
    skipped: list[Skipped] = []
    for conv, names in select(model, where).items():
        reason = why_not(conv)
        if reason is None and isinstance(where, str) and not is_spatial(conv):
            reason = "1x1: a single tap; a predicate can choose it"
        if reason is not None:
            skipped.append(Skipped(names[0], type(conv).__name__, reason))
        elif isinstance(conv, nn.Conv2d):
            rows.append(_row(conv, names, options))
    return Plan(tuple(rows), tuple(skipped))


def _row(conv: nn.Conv2d, names: tuple[str, ...], options: Options) -> Row:
    layer = blueprint(conv, options)
    added = sum(parameter.numel() for parameter in layer.conv_offset.parameters())
    kind = type(conv).__name__
    return Row(names[0], names[1:], kind, layer.kernel_size, layer.stride, layer.dilation, layer.groups, added)


def check_model(model: nn.Module) -> None:
    """Refuse what holds on to the modules or parameters it was made from, so that surgery would go unnoticed."""
    if not isinstance(model, nn.Module):
        fail("model", "must be a torch.nn.Module", type(model).__name__, "give the model itself", kind=TypeError)
    if isinstance(model, torch.jit.ScriptModule):
        fix = "convert the Python model, then script or trace it"
        fail("model", "must not be a TorchScript module", type(model).__name__, fix, kind=TypeError)
    for name, module in model.named_modules():
        if hasattr(module, "_orig_mod") or getattr(module, "_compiled_call_impl", None) is not None:
            fix = "convert first, then torch.compile the result (the original of a compiled model is model._orig_mod)"
            fail("model", "must not be compiled yet", f"a compiled {_shown(name)}", fix, kind=TypeError)
        if isinstance(module, nn.parallel.DistributedDataParallel):
            fix = "convert first, then wrap, so that the gradients of the offset branches are exchanged (model.module)"
            fail("model", "must not be wrapped yet", "DistributedDataParallel", fix, kind=TypeError)
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "device_mesh"):  # a DTensor, whose module is not there in every build of PyTorch
            fix = "convert first, then shard (fully_shard, parallelize_module), so that the offset branches are too"
            fail("model", "must not be sharded yet", f"{name!r}, a {type(parameter).__name__}", fix, kind=TypeError)


def _cells(row: Row) -> tuple[str, ...]:
    name = " = ".join(map(_shown, (row.name, *row.aliases)))
    pairs = (f"{first}x{second}" for first, second in (row.kernel_size, row.stride, row.dilation))
    return (name, row.kind, "DeformConv2d", *pairs, str(row.groups), f"+{row.added_parameters:,}")


def _shown(name: str) -> str:
    return name or "(the model itself)"


def _html_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"<tr>{''.join(f'<th>{html.escape(cell)}</th>' for cell in head)}</tr>"]
    lines += [f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows]
    return f"<table>{''.join(lines)}</table>"
