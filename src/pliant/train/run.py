# SPDX-License-Identifier: Apache-2.0
"""A training run in its folder: started, watched, interrupted, resumed."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from pliant._check import fail
from pliant.train.checkpoint import load_checkpoint
from pliant.train.config import TrainConfig, overridden
from pliant.train.files import locked, write_json
from pliant.train.loop import CHECKPOINT_FILE, Datasets, Run
from pliant.train.model import CONFIG_FILE, build_model, load_categories, load_config, resolve, save_categories
from pliant.train.processes import batches_of_step, make_accelerator
from pliant.train.progress import drop_metrics_after
from pliant.train.start import start_from
from pliant.train.tasks import task_of

ENVIRONMENT_FILE = "environment.json"
RECORDED = ("pliant", "torch", "torchvision", "timm", "accelerate", "faster-coco-eval", "numpy")
# The settings that `resume` may change.
RESUMABLE = ("epochs", "steps", "data", "workers", "device")


def train(config: TrainConfig, out: Path) -> bool:
    """Train the model of `config` in the new folder `out`.

    The folder gets `config.json`, `categories.json`, `environment.json`, `metrics.jsonl`, `log.txt`, `last.pt` (to
    resume from) and `weights.safetensors` (of the best metric; of the last step where nothing is evaluated).

    Returns:
        True when the run is complete, False when SIGINT or SIGTERM stopped it: `resume(out)` continues it.

    Raises:
        PliantError: the folder holds a run already, the data are not usable, or a loss is not finite.
    """
    _refuse_run(out)
    accelerator = make_accelerator(config, out)
    batches_of_step(config, accelerator.num_processes)  # refused before anything is written
    config = resolve(config)
    datasets = _open_datasets(config, None)
    categories = datasets[0].categories
    torch.manual_seed(config.seed)
    # The first process downloads what there is to download; all have looked for an earlier run before it writes.
    with accelerator.main_process_first():
        model = build_model(config, len(categories))
        if config.start is not None:
            start_from(model, config, categories)
    run = Run(config, out, model, datasets, accelerator)
    with locked(out) if accelerator.is_main_process else nullcontext():
        if accelerator.is_main_process:
            _refuse_run(out)
            save_categories(out, categories)
            write_json(out / ENVIRONMENT_FILE, environment(accelerator.num_processes))
            # The config is written last: a folder with it is a run that can be resumed.
            write_json(out / CONFIG_FILE, config.as_dict())
        return run.complete()


def _refuse_run(out: Path) -> None:
    if (out / CONFIG_FILE).exists():
        fix = f"use another --out, or continue it with `pliant train --resume {out}`"
        fail("out", "must not hold a run already", str(out), fix)


def train_or_resume(config: TrainConfig, out: Path) -> bool:
    """Train in `out`, or continue the run there if it has the same settings: one command for a job that is restarted.

    Returns:
        As `train` and `resume`.

    Raises:
        PliantError: the run in `out` has other settings, which are named; else as `train` and `resume`.
    """
    if not (out / CONFIG_FILE).exists():
        return train(config, out)
    before, now = load_config(out, "out").as_dict(), resolve(config).as_dict()
    other = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if other:
        got = ", ".join(f"{name} {now.get(name)!r} for {before.get(name)!r}" for name in other[:3])
        fix = "give the run's settings, or use --resume, which changes some of them"
        fail("continue", f"must come with the settings of the run in {out}", got, fix)
    return resume(out)


def resume(out: Path, changed: Mapping[str, Any] | None = None) -> bool:
    """Continue the run in `out` from its last checkpoint, as if it had never stopped; from the start if it has none.

    Args:
        out: the run folder.
        changed: settings that replace the run's, of `RESUMABLE`. A finished run goes on where `epochs` or `steps` ask
            for more; the learning rate is then that of the longer run.

    Returns:
        True when the run is complete, False when it was stopped again.

    Raises:
        PliantError: not a run folder, its data or checkpoint are not usable, the data are others and `data` was not
            given, or the processes cannot make the steps that there were.
    """
    changed = changed or {}
    config = TrainConfig.from_dict(overridden(load_config(out, "resume").as_dict(), changed))
    accelerator = make_accelerator(config, out)
    with locked(out) if accelerator.is_main_process else nullcontext():
        datasets = _open_datasets(config, out)
        torch.manual_seed(config.seed)
        checkpoint = load_checkpoint(out / CHECKPOINT_FILE) if (out / CHECKPOINT_FILE).is_file() else None
        model = build_model(config, len(datasets[0].categories), pretrained=checkpoint is None)
        if config.start is not None and checkpoint is None:
            start_from(model, config, datasets[0].categories)
        run = Run(config, out, model, datasets, accelerator)
        if checkpoint is not None:
            run.load(checkpoint, other_data="data" in changed)
        if accelerator.is_main_process:
            drop_metrics_after(out, run.progress.step, run.progress.epoch)
            if changed:
                write_json(out / CONFIG_FILE, config.as_dict())
        return run.complete()


def _open_datasets(config: TrainConfig, run: Path | None) -> Datasets:
    task, known = task_of(config), load_categories(run) if run is not None else None
    training = task.open_data(config, config.split, training=True, known=known)
    if config.val_split is None:
        return training, None
    return training, task.open_data(config, config.val_split, training=False, known=training.categories)


def environment(processes: int) -> dict[str, Any]:
    """Return the versions and the machine that a run of so many processes is made with."""
    versions = {}
    for name in RECORDED:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device,
        "threads": torch.get_num_threads(),
        "processes": processes,
        "packages": versions,
    }
