# SPDX-License-Identifier: Apache-2.0
"""One process or many: the accelerator of a run, and what its processes have to agree on."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration, gather_object
from torch import Tensor

from pliant._check import PliantError, fail, fail_because
from pliant.train.config import TrainConfig
from pliant.train.model import pick_device


def make_accelerator(config: TrainConfig, out: Path) -> Accelerator:
    """Return the accelerator of the run in `out`: alone, or one of the processes of `accelerate launch` or `torchrun`.

    Raises:
        PliantError: fp16 without an accelerator, a second precision in one Python process, or a tracker that is not
            installed.
    """
    if config.precision == "fp16" and pick_device(config.device).type == "cpu":
        fail("precision", "must be 'no' or 'bf16' on the CPU", "'fp16'", "use bf16")
    # A loss that no image of a batch contributes to (masks, mimicking) leaves parameters without a gradient.
    parallel = DistributedDataParallelKwargs(find_unused_parameters=True)
    device = pick_device(config.device)
    if device.index is not None:
        torch.accelerator.set_device_index(device.index)
    tracker = None if config.tracker == "none" else config.tracker
    if tracker is not None and importlib.util.find_spec(tracker) is None:
        fail_because("tracker", f"must be installed to be {tracker!r}", "it is not", f"pip install {tracker}")
    try:
        return Accelerator(
            cpu=device.type == "cpu",
            mixed_precision=config.precision,
            kwargs_handlers=[parallel],
            log_with=tracker,
            project_config=ProjectConfiguration(str(out), logging_dir=str(out / "tensorboard")),
        )
    except ValueError as error:
        raise PliantError(
            f"precision: must be one that accelerate can use here; got {config.precision!r} ({error})"
        ) from error


def batches_of_step(config: TrainConfig, processes: int) -> int:
    """Return how many batches make a step, those of all processes together.

    Raises:
        PliantError: `step_images` are not a multiple of the images that the processes take at once.
    """
    if config.step_images is None:
        return config.accumulate * processes
    at_once = config.batch_size * processes
    if config.step_images % at_once:
        rule = f"must be a multiple of batch_size x processes, {config.batch_size} x {processes}"
        fail("step_images", rule, config.step_images, "choose another --batch-size")
    return config.step_images // config.batch_size


def end_processes() -> None:
    """End the group of processes, if there is one; NCCL warns of those that end without it."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def summed(accelerator: Accelerator, values: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the sums over all processes of scalars that each process has by the same names."""
    names = sorted(values)
    together = torch.stack([values[name].float() for name in names])
    if accelerator.num_processes > 1:
        together = accelerator.reduce(together, reduction="sum")
    sums = dict(zip(names, together.tolist(), strict=True))
    return {name: sums[name] for name in values}


def anyone(accelerator: Accelerator, flag: bool) -> bool:
    """Return whether `flag` is set in any of the processes."""
    if accelerator.num_processes == 1:
        return flag
    return bool(accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), reduction="sum").item())


def gathered(accelerator: Accelerator, own: Sequence[Any]) -> list[Any]:
    """Return what all processes hold, where process p of P holds the items p, p + P, p + 2P, ... in order.

    The processes may hold unlike numbers of items; each gets them all.
    """
    count = accelerator.num_processes
    if count == 1:
        return list(own)
    shares: list[list[Any]] = gather_object([list(own)])
    longest = max(map(len, shares))
    return [share[row] for row in range(longest) for share in shares if row < len(share)]
