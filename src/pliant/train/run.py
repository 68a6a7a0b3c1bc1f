# SPDX-License-Identifier: Apache-2.0
"""A training run in its folder: started, watched, interrupted, resumed."""

from __future__ import annotations

import json
import platform
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from pliant._check import PliantError, fail
from pliant.analysis import OffsetWatch

from .batches import epoch_batches, training_loader
from .checkpoint import load_checkpoint, random_state, save_checkpoint, save_weights, set_random_state, write_atomically
from .config import TrainConfig
from .engine import evaluate, train_one_epoch
from .model import CONFIG_FILE, WEIGHTS_FILE, build_model, load_categories, load_config, resolve, save_categories
from .progress import RunReporter, drop_metrics_after
from .schedule import build_optimizer, build_scheduler
from .tasks import task_of
from .tasks.base import Examples

CHECKPOINT_FILE = "last.pt"
ENVIRONMENT_FILE = "environment.json"
PACKAGES = ("pliant", "torch", "torchvision", "timm", "accelerate", "faster-coco-eval", "numpy")


@dataclass
class Progress:
    """Where a run stands: steps, epochs, batches of the present epoch, the best metric, and whether all is done."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best: float = -1.0
    done: bool = False


def train(config: TrainConfig, out: Path) -> bool:
    """Train the model of `config` in the new folder `out`.

    The folder gets `config.json`, `categories.json`, `environment.json`, `metrics.jsonl`, `log.txt`, `last.pt` (to
    resume from) and `weights.safetensors` (of the best metric; of the last step where nothing is evaluated).

    Returns:
        True when the run is complete, False when SIGINT or SIGTERM stopped it: `resume(out)` continues it.

    Raises:
        PliantError: the folder holds a run already, the data are not usable, or a loss is not finite.
    """
    if (out / CONFIG_FILE).exists():
        fix = f"use another --out, or continue it with `pliant train --resume {out}`"
        fail("out", "must not hold a run already", str(out), fix, kind=PliantError)
    config = resolve(config)
    datasets = _open_datasets(config, None)
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    model = build_model(config, len(datasets[0].categories))
    save_categories(out, datasets[0].categories)
    _write_json(out / ENVIRONMENT_FILE, environment())
    # The config is written last: a folder with it is a run that can be resumed.
    _write_json(out / CONFIG_FILE, config.as_dict())
    return _Run(config, out, model, datasets).complete()


def resume(out: Path) -> bool:
    """Continue the run in `out` from its last checkpoint, as if it had never stopped; from the start if it has none.

    Returns:
        True when the run is complete, False when it was stopped again.

    Raises:
        PliantError: not a run folder, or its data or checkpoint are not usable.
    """
    config = load_config(out, "resume")
    datasets = _open_datasets(config, out)
    torch.manual_seed(config.seed)
    checkpoint = load_checkpoint(out / CHECKPOINT_FILE) if (out / CHECKPOINT_FILE).is_file() else None
    model = build_model(config, len(datasets[0].categories), pretrained=checkpoint is None)
    run = _Run(config, out, model, datasets)
    drop_metrics_after(out, checkpoint["progress"]["step"] if checkpoint else 0)
    if checkpoint is not None:
        run.load(checkpoint)
    return run.complete()


def environment() -> dict[str, Any]:
    """Return the versions and the machine that a run is made with."""
    versions = {}
    for name in PACKAGES:
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
        "packages": versions,
    }


Datasets = tuple[Examples, Examples | None]


def _open_datasets(config: TrainConfig, run: Path | None) -> Datasets:
    task, known = task_of(config), load_categories(run) if run is not None else None
    training = task.open_data(config, config.split, training=True, known=known)
    if config.val_split is None:
        return training, None
    return training, task.open_data(config, config.val_split, training=False, known=training.categories)


class _Run:
    """The objects of a run, and the order of what happens in it."""

    def __init__(self, config: TrainConfig, out: Path, model: nn.Module, datasets: Datasets) -> None:
        self.config, self.out, self.task = config, out, task_of(config)
        self.training, self.validation = datasets
        per_epoch = -(-len(self.training) // config.batch_size)
        self.total_steps = config.steps or config.epochs * per_epoch
        self.accelerator = Accelerator(cpu=config.device == "cpu", mixed_precision=config.precision)
        optimizer = build_optimizer(model, config)
        self.scheduler: LambdaLR = build_scheduler(optimizer, config, self.total_steps)
        self.model: nn.Module
        self.optimizer: Optimizer
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.progress = Progress()
        self.watch = OffsetWatch(self.accelerator.unwrap_model(self.model))
        self.warned = False
        self.stop_asked = False
        self.reporter = RunReporter(out, self.total_steps, self.task.unit, tensorboard=config.tensorboard)

    def complete(self) -> bool:
        """Train to the end, or until a signal asks to stop."""
        with self.reporter, _signals(self):
            self._introduce()
            while not self.progress.done:
                if not self._epoch():
                    step = self.progress.step
                    self.reporter.say(f"stopped after step {step}; continue with: pliant train --resume {self.out}")
                    return False
            best = f" (best {self.task.unit} {self.progress.best:.3f})" if self.validation is not None else ""
            self.reporter.say(f"done: {self.out}{best}")
        return True

    def _introduce(self) -> None:
        for dataset in filter(None, (self.training, self.validation)):
            problems = "; ".join(dataset.report.summary())
            self.reporter.say(f"{dataset.split}: {self.task.contents(dataset)}; {problems}")
        if self.progress.step:
            self.reporter.say(f"resumed after step {self.progress.step}")
        self.reporter.say(f"training on {self.accelerator.device}, {self.total_steps - self.progress.step} steps to go")

    def _epoch(self) -> bool:
        """Train through the rest of an epoch, evaluate and save; False if the run was asked to stop."""
        progress = self.progress
        batches = epoch_batches(len(self.training), self.config.batch_size, self.config.seed, progress.epoch)
        todo = batches[progress.batch :][: self.total_steps - progress.step]
        loader = training_loader(self.training, todo, self.config.workers)
        clip = self.config.grad_clip
        parts = (self.model, self._watched(loader, len(todo)), self.optimizer, self.scheduler, self.accelerator)
        if not train_one_epoch(*parts, grad_clip=clip, on_step=self._on_step):
            return False  # asked to stop; _on_step has saved
        progress.epoch, progress.batch = progress.epoch + 1, 0
        record: dict[str, Any] = {"step": progress.step, "epoch": progress.epoch}
        if self.watch.layers:
            record["offsets"] = {name: layer.as_dict() for name, layer in self.watch.layers.items()}
        self._warn_of_runaways()
        progress.done = progress.step >= self.total_steps
        evaluated = self.validation is not None and (progress.done or progress.epoch % self.config.eval_every == 0)
        if evaluated:
            record |= self._evaluate()
        self.reporter.record(record)
        # Not after each epoch: those of a small data set are over in seconds.
        if evaluated or progress.done or self.stop_asked:
            self.save()
        return progress.done or not self.stop_asked

    def _watched(self, loader: Any, length: int) -> Iterator[Any]:
        """Yield the batches of `loader`, measuring the offsets while the last one is trained on."""
        for number, batch in enumerate(loader, start=1):
            if number < length:
                yield batch
            else:
                with self.watch.measuring():
                    yield batch

    def _on_step(self, losses: dict[str, float]) -> bool:
        progress, config = self.progress, self.config
        progress.step, progress.batch = progress.step + 1, progress.batch + 1
        self.reporter.step(progress.step, losses["loss"])
        if progress.step % config.log_every == 0 or progress.step == self.total_steps:
            lr = max(self.scheduler.get_last_lr())
            self.reporter.record({"step": progress.step, "epoch": progress.epoch, "lr": lr, **losses})
        if self.stop_asked or progress.step % config.checkpoint_every == 0:
            self.save()
        return not self.stop_asked

    def _evaluate(self) -> dict[str, float]:
        assert self.validation is not None
        dataset, model = self.validation, self.accelerator.unwrap_model(self.model)
        workers, device = self.config.workers, self.accelerator.device
        with self.reporter.evaluation(len(dataset)) as on_image:
            metrics = evaluate(model, dataset, device, self.config, workers=workers, on_image=on_image)
        numbers = metrics.as_dict()
        logged = {name: float(numbers[name]) for name in self.task.logged}
        best = logged[self.task.metric]
        self.reporter.show_metric(best)
        self.reporter.say(f"epoch {self.progress.epoch}  " + "  ".join(f"{k} {v:.4f}" for k, v in logged.items()))
        if best >= self.progress.best:
            self.progress.best = best
            save_weights(self.out / WEIGHTS_FILE, model)
        return logged

    def _warn_of_runaways(self) -> None:
        names = self.watch.runaways()
        if names and not self.warned:
            self.warned = True
            self.reporter.say(
                f"warning: the offsets of {', '.join(names)} ran away (see offsets in metrics.jsonl); "
                "lower --lr or --offset-lr-scale, or raise --warmup-steps"
            )

    def save(self) -> None:
        """Write the checkpoint that `resume` continues from."""
        scaler = self.accelerator.scaler
        state = {
            "progress": vars(self.progress),
            "warned": self.warned,
            "model": self.accelerator.unwrap_model(self.model).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler_step": self.scheduler.last_epoch,
            "scaler": scaler.state_dict() if scaler is not None else {},
            "random": random_state(),
        }
        save_checkpoint(self.out / CHECKPOINT_FILE, state)
        if self.validation is None:
            save_weights(self.out / WEIGHTS_FILE, self.accelerator.unwrap_model(self.model))

    def load(self, state: dict[str, Any]) -> None:
        """Put the run where the checkpoint was made."""
        progress = dict(state["progress"])
        # Version 0.1 knew detection alone.
        self.progress = Progress(best=progress.pop("best_ap", progress.pop("best", -1.0)), **progress)
        self.warned = state["warned"]
        self.accelerator.unwrap_model(self.model).load_state_dict(state["model"])
        self.scheduler.last_epoch = state["scheduler_step"]
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        set_random_state(state["random"])


@contextmanager
def _signals(run: _Run) -> Iterator[None]:
    """Let the first SIGINT or SIGTERM end the run after the present step; the second one ends the process at once."""

    def ask(number: int, frame: FrameType | None) -> None:
        run.stop_asked = True
        signal.signal(number, before[signal.Signals(number)])

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write_json(path: Path, value: Any) -> None:
    write_atomically(path, lambda target: target.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8"))
