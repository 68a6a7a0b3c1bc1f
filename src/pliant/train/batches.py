# SPDX-License-Identifier: Apache-2.0
"""The order of training images and the seed of each one's augmentation: functions of (seed, epoch) alone.

So a resumed run continues within an epoch exactly, with any number of reading processes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pliant.data import collate

from .tasks.base import Examples, Sample

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


def epoch_batches(length: int, batch_size: int, seed: int, epoch: int) -> list[list[Key]]:
    """Return the batches of one epoch: every index once, in an order and with seeds that (seed, epoch) decide.

    Example:
        >>> sorted(index for batch in epoch_batches(5, 2, seed=0, epoch=3) for index, _ in batch)
        [0, 1, 2, 3, 4]
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(length, generator=generator).tolist()
    seeds = torch.randint(2**62, (length,), generator=generator).tolist()
    keys = list(zip(order, seeds, strict=True))
    return [keys[start : start + batch_size] for start in range(0, length, batch_size)]


def training_loader(dataset: Examples, batches: list[list[Key]], workers: int) -> DataLoader[Sample]:
    """Return a loader of exactly `batches`."""
    seeded = SeededDataset(dataset)
    # A generator of its own: making an iterator draws from it, and must not disturb the one training uses.
    generator = torch.Generator().manual_seed(0)
    return DataLoader(seeded, batch_sampler=batches, num_workers=workers, collate_fn=collate, generator=generator)
