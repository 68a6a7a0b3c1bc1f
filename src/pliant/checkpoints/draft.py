# SPDX-License-Identifier: Apache-2.0
"""A conversion in the making: tensors are taken from a state dict one by one, and each is accounted for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pliant._check import counted, fail, in_columns

AS_IT_IS = "as it is"
UNKNOWN = "nothing in pliant's model takes it"
Change = Callable[[Tensor], Tensor]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Entry:
    """What became of one tensor: from `source` to `target`, and how; no source: it is new in pliant's model."""

    source: str | None
    source_shape: Shape | None
    target: str
    target_shape: Shape
    how: str


@dataclass(frozen=True)
class Conversion:
    """A state dict in pliant's names.

    Attributes:
        source: the library that the file comes from.
        settings: the options of `pliant train` that build the model; empty where only layers were renamed.
        labels: how many categories the model has; 0 where there is no classifier.
        tensors: in pliant's names and shapes.
        entries: what became of each tensor that was taken.
        left: name and reason of each tensor that was not.
        notes: what the weights do not say, and where pliant computes differently.
        background: whether the first of the labels is 0, as in segmentation.
    """

    source: str
    settings: Mapping[str, Any]
    labels: int
    tensors: dict[str, Tensor]
    entries: tuple[Entry, ...]
    left: Mapping[str, str]
    notes: tuple[str, ...]
    background: bool = False

    def table(self) -> str:
        """Return a line for each tensor, and the notes."""
        rows = [
            (e.source or "(new)", _text(e.source_shape), e.target, _text(e.target_shape), e.how) for e in self.entries
        ]
        rows += [(name, "", "(left)", "", why) for name, why in self.left.items()]
        return "\n".join([*in_columns(rows), *(f"note: {note}" for note in self.notes), self.summary()])

    def summary(self) -> str:
        """Return one line with the numbers."""
        taken = [entry for entry in self.entries if entry.source]
        changed = sum(entry.how != AS_IT_IS for entry in taken)
        new = len(self.entries) - len(taken)
        what = f"{counted(len(taken), 'tensor')} taken, {changed} of them changed"
        return f"{self.source}: {what}; {len(self.left)} left; {new} new"

    def as_dict(self) -> dict[str, Any]:
        """Return all but the tensors as plain values for JSON."""
        return {
            "source": self.source,
            "settings": dict(self.settings),
            "entries": [vars(entry) for entry in self.entries],
            "left": dict(self.left),
            "notes": list(self.notes),
        }


class Draft:
    """The tensors of a file, and what has been taken from them."""

    def __init__(self, source: str, state: Mapping[str, Tensor]) -> None:
        self.source = source
        self.state = dict(state)
        self.total = len(state)
        self.tensors: dict[str, Tensor] = {}
        self.entries: list[Entry] = []
        self.left: dict[str, str] = {}
        self.notes: list[str] = []

    def move(self, name: str, target: str, how: str = AS_IT_IS, change: Change | None = None) -> None:
        """Take the tensor `name` to `target`, changed by `change`."""
        tensor = self.state.pop(name)
        given = tuple(tensor.shape)
        if target in self.tensors:
            rule = f"must hold each of pliant's tensors once; {target} is there already"
            fail("checkpoint", rule, name, "give the checkpoint of one model")
        result = (change(tensor) if change else tensor).contiguous()
        self.tensors[target] = result
        self.entries.append(Entry(name, given, target, tuple(result.shape), how))

    def rename(self, pattern: str, target: str, how: str = AS_IT_IS, change: Change | None = None) -> int:
        """Move each tensor whose whole name matches, to `target` with the groups filled in; return how many."""
        found = [match for match in map(re.compile(pattern).fullmatch, list(self.state)) if match]
        for match in found:
            self.move(match[0], match.expand(target), how, change)
        return len(found)

    def leave(self, pattern: str, why: str) -> None:
        """Leave each tensor whose whole name matches."""
        for name in [name for name in self.state if re.fullmatch(pattern, name)]:
            del self.state[name]
            self.left[name] = why

    def leave_counters(self) -> None:
        """Leave the batch norms' counters of training steps, which frozen ones do not have."""
        self.leave(r".*\.num_batches_tracked", "counts training steps, which a frozen batch norm does not")

    def require(self, name: str) -> Tensor:
        """Return the tensor `name`, or say that the file lacks it."""
        if name not in self.state:
            fix = "give the checkpoint of one of the systems in docs/checkpoints.md"
            fail("checkpoint", f"must hold {name}", f"{counted(self.total, 'tensor')} without it", fix)
        return self.state[name]

    def finish(self, settings: Mapping[str, Any], labels: int = 0, *, background: bool = False) -> Conversion:
        """Return the conversion; what was neither moved nor left is listed as unknown."""
        left = {**self.left, **dict.fromkeys(self.state, UNKNOWN)}
        parts = (self.tensors, tuple(self.entries), left, tuple(self.notes), background)
        return Conversion(self.source, settings, labels, *parts)


def _text(shape: Shape | None) -> str:
    return "" if shape is None else "x".join(map(str, shape)) or "scalar"
