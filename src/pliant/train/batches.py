# SPDX-License-Identifier: Apache-2.0
"""The order of training images and the seed of each one's augmentation: functions of (seed, epoch) alone.

So a resumed run continues within an epoch exactly, with any number of reading processes. A step of the optimizer is
made of one batch or several, and it does not matter which process takes which of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pliant._check import PliantError
from pliant.data import collate
from pliant.train.tasks.base import Examples, Sample

Batch = tuple[list[Tensor], list[dict[str, Tensor]]]  # what `collate` makes of samples
Key = tuple[int, int]


class SeededDataset(Dataset[Sample]):
    """A data set whose keys are (index, seed): the transforms of an image draw from that seed only."""

    def __init__(self, dataset: Examples) -> None:
        self.dataset = dataset

    def __getitem__(self, key: Key) -> Sample:
        index, seed = key
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.dataset[index]


@dataclass(frozen=True)
class Part:
    """A batch that one process takes in one go, as a part of a step.

    Attributes:
        keys: the images, and the seeds of their augmentation.
        share: of the step's images, 0..1; 0 where a process has none of them and takes part without a weight.
        seed: what the model's own random draws start from; None: they go on from the step before.
    """

    keys: list[Key]
    share: float
    seed: int | None


Step = list[list[Key]]
Item = TypeVar("Item")


def epoch_steps(length: int, batch_size: int, batches: int, seed: int, epoch: int) -> list[Step]:
    """Return the steps of one epoch: every index once, in an order and with seeds that (seed, epoch) decide.

    Args:
        length: images of the split.
        batch_size: images of a batch.
        batches: batches of a step; the last step of the epoch may have fewer, and its last batch fewer images, but no
            single one where two or more can be left: batch norm has no statistics of one value.
        seed: of the run.
        epoch: from 0.

    Example:
        >>> steps = epoch_steps(7, 2, batches=2, seed=0, epoch=3)
        >>> [[len(batch) for batch in step] for step in steps]
        [[2, 2], [2, 1]]
        >>> sorted(index for step in steps for batch in step for index, _ in batch)
        [0, 1, 2, 3, 4, 5, 6]
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(length, generator=generator).tolist()
    seeds = torch.randint(2**62, (length,), generator=generator).tolist()
    keys = list(zip(order, seeds, strict=True))
    chunks = [keys[start : start + batch_size] for start in range(0, length, batch_size)]
    if batch_size > 2 and len(chunks) > 1 and len(chunks[-1]) == 1:
        chunks[-1].insert(0, chunks[-2].pop())
    return [chunks[start : start + batches] for start in range(0, len(chunks), batches)]


def own_parts(step: Step, process: int, processes: int, *, seeded: bool) -> list[Part]:
    """Return the parts of a step that fall to one of several processes; their shares add up to 1 over all processes.

    A process without a batch gets the first one again, with the share 0: gradients are averaged by all or by none.

    Args:
        step: from `epoch_steps`.
        process: from 0.
        processes: how many there are.
        seeded: give each part a seed, so that what is drawn for it depends neither on its process nor on its place.
    """
    total = sum(map(len, step))
    own = [(batch, len(batch) / total) for batch in step[process::processes]] or [(step[0], 0.0)]
    return [Part(batch, share, batch[0][1] if seeded else None) for batch, share in own]


def training_loader(dataset: Examples, batches: list[list[Key]], workers: int) -> DataLoader[Sample]:
    """Return a loader of exactly `batches`."""
    seeded = SeededDataset(dataset)
    # A generator of its own: making an iterator draws from it, and must not disturb the one training uses.
    generator = torch.Generator().manual_seed(0)
    return DataLoader(seeded, batch_sampler=batches, num_workers=workers, collate_fn=collate, generator=generator)


def reading(loader: Iterable[Item]) -> Iterator[Item]:
    """Yield from a loader; the death of one of its processes becomes a `PliantError`."""
    batches = iter(loader)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            reason = str(error).splitlines()[0]
            fix = "lower --workers or give the machine more memory, then continue with --resume"
            raise PliantError(f"workers: must not end before the training; {reason}; {fix}") from error
        yield batch


def read_steps(
    dataset: Examples, steps: Sequence[Sequence[Part]], workers: int
) -> Iterator[Iterable[tuple[Part, Batch]]]:
    """Yield each step as an iterator of its parts, each with its images and targets."""
    keys = [part.keys for step in steps for part in step]
    loader = reading(training_loader(dataset, keys, workers))
    for step in steps:
        yield zip(step, loader, strict=False)
