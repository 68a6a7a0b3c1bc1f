# SPDX-License-Identifier: Apache-2.0
"""`Run`: the objects of a training run, and the order of what happens in it."""

from __future__ import annotations

import functools
import signal
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from pliant._check import PliantError, counted, fail, fail_because
from pliant.analysis import OffsetWatch
from pliant.train.batches import Batch, Part, epoch_steps, own_parts, read_steps
from pliant.train.checkpoint import random_state, save_checkpoint, save_weights, set_random_state
from pliant.train.config import TrainConfig
from pliant.train.engine import evaluate, train_one_epoch
from pliant.train.model import WEIGHTS_FILE
from pliant.train.processes import anyone, batches_of_step
from pliant.train.progress import RunReporter
from pliant.train.schedule import build_optimizer, build_scheduler, lr_factor
from pliant.train.tasks import task_of
from pliant.train.tasks.base import Examples

CHECKPOINT_FILE = "last.pt"
Datasets = tuple[Examples, Examples | None]


@dataclass
class Progress:
    """Where a run stands: steps, epochs, steps of the present epoch, the best metric, and whether all is done."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    best: float = -1.0
    done: bool = False


class Run:
    """The objects of a run, and the order of what happens in it."""

    def __init__(
        self, config: TrainConfig, out: Path, model: nn.Module, datasets: Datasets, accelerator: Accelerator
    ) -> None:
        self.config, self.out, self.task, self.accelerator = config, out, task_of(config), accelerator
        self.training, self.validation = datasets
        self.batches = batches_of_step(config, accelerator.num_processes)
        self.per_epoch = -(-len(self.training) // (config.batch_size * self.batches))
        self.total_steps = config.steps or config.epochs * self.per_epoch
        if config.channels_last:
            model.to(memory_format=torch.channels_last)
        if config.compile:
            model.get_submodule("backbone").compile()
        optimizer = build_optimizer(model, config)
        self.scheduler: LambdaLR = build_scheduler(optimizer, config, self.total_steps)
        self.model: nn.Module
        self.optimizer: Optimizer
        self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.progress = Progress()
        self.notes: list[str] = []
        self.watch = OffsetWatch(accelerator.unwrap_model(self.model))
        self.warned = False
        self.stop_asked = False
        quiet = not accelerator.is_main_process
        self.reporter = RunReporter(out, self.total_steps, self.task.unit, accelerator.log, quiet=quiet)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Which images are trained on; worked out once, since it takes seconds for a million of them."""
        return self.training.fingerprint()

    def complete(self) -> bool:
        """Train to the end, or until a signal asks to stop."""
        with self.reporter, _tracked(self.accelerator, self.config), _signals(self):
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
        for note in self.notes:
            self.reporter.say(note)
        processes = self.accelerator.num_processes
        place = f"{self.accelerator.device}" + (f" in {counted(processes, 'process')}" if processes > 1 else "")
        images, steps = self.config.batch_size * self.batches, self.total_steps - self.progress.step
        todo = f"{counted(steps, 'step')} of {counted(images, 'image')} left" if steps > 0 else "nothing to do"
        self.reporter.say(f"training on {place}, {todo}")

    def _epoch(self) -> bool:
        """Train through the rest of an epoch, evaluate and save; False if the run was asked to stop."""
        progress = self.progress
        todo = self._steps()
        parts = (self.model, self._watched(todo), self.optimizer, self.scheduler, self.accelerator)
        whole, offsets = self.config.grad_clip, self.config.offset_grad_clip
        if not train_one_epoch(*parts, grad_clip=whole, offset_grad_clip=offsets, on_step=self._on_step):
            return False  # asked to stop; _on_step has saved
        if progress.batch == self.per_epoch:  # not where --steps end within an epoch, which more steps would continue
            progress.epoch, progress.batch = progress.epoch + 1, 0
        record: dict[str, Any] = {"step": progress.step, "epoch": progress.epoch}
        progress.done = progress.step >= self.total_steps
        evaluated = self.validation is not None and (progress.done or progress.epoch % self.config.eval_every == 0)
        if evaluated:
            record |= self._evaluate()
        self.reporter.record(record)
        # Not after each epoch: those of a small data set are over in seconds.
        if evaluated or progress.done or self.stop_asked:
            self.save()
        return progress.done or not self.stop_asked

    def _steps(self) -> list[list[Part]]:
        """Return this process's parts of the steps that are left of the epoch."""
        config, process, processes = self.config, self.accelerator.process_index, self.accelerator.num_processes
        steps = epoch_steps(len(self.training), config.batch_size, self.batches, config.seed, self.progress.epoch)[
            self.progress.batch :
        ][: self.total_steps - self.progress.step]
        return [own_parts(step, process, processes, seeded=self.batches > 1) for step in steps]

    def _watched(self, todo: list[list[Part]]) -> Iterator[Iterable[tuple[Part, Batch]]]:
        """Yield the steps of `todo`, measuring the offsets while the last one is taken, and those of checkpoints."""
        for number, step in enumerate(read_steps(self.training, todo, self.config.workers), start=1):
            self.watch.layers.clear()
            if number < len(todo) and (self.progress.step + 1) % self.config.checkpoint_every:
                yield step
            else:
                with self.watch.measuring(), self._hooks_called():
                    yield step

    def _hooks_called(self) -> AbstractContextManager[object]:
        """Return a context in which the watch's hooks are called; a compiled backbone would not call them."""
        return torch.compiler.set_stance("force_eager") if self.config.compile else nullcontext()

    def _on_step(self, losses: dict[str, float]) -> bool:
        progress, config = self.progress, self.config
        progress.step, progress.batch = progress.step + 1, progress.batch + 1
        self.reporter.step(progress.step, losses["loss"])
        if progress.step % config.log_every == 0 or progress.step == self.total_steps:
            # That of the layers without a factor of their own, in the step just taken.
            lr = config.lr * lr_factor(config, self.scheduler.last_epoch - 1, self.total_steps)
            self.reporter.record({"step": progress.step, "epoch": progress.epoch, "lr": lr, **losses})
        self._tell_offsets()
        # All processes must hear of a signal that one of them got, and at the same step.
        self.stop_asked = anyone(self.accelerator, self.stop_asked)
        if self.stop_asked or progress.step % config.checkpoint_every == 0:
            self.save()
        return not self.stop_asked

    def _evaluate(self) -> dict[str, float]:
        assert self.validation is not None
        dataset, model = self.validation, self.accelerator.unwrap_model(self.model)
        workers, device = self.config.workers, self.accelerator.device
        with self.reporter.evaluation(len(dataset)) as on_image:
            metrics = evaluate(
                model, dataset, device, self.config, workers=workers, on_image=on_image, accelerator=self.accelerator
            )
        numbers = metrics.as_dict()
        logged = {name: float(numbers[name]) for name in self.task.logged}
        best = logged[self.task.metric]
        self.reporter.show_metric(best)
        self.reporter.say(f"epoch {self.progress.epoch}  " + "  ".join(f"{k} {v:.4f}" for k, v in logged.items()))
        if best >= self.progress.best:
            self.progress.best = best
            self._save_weights()
        return logged

    def _tell_offsets(self) -> None:
        """Record what was measured in this step, if it was one to measure, and warn once of offsets that ran away."""
        if self.watch.layers:
            measured = {name: layer.as_dict() for name, layer in self.watch.layers.items()}
            self.reporter.record({"step": self.progress.step, "epoch": self.progress.epoch, "offsets": measured})
        names = self.watch.runaways()
        if names and not self.warned:
            self.warned = True
            self.reporter.say(
                f"warning: the offsets of {', '.join(names)} ran away (see offsets in metrics.jsonl); "
                "lower --lr or --offset-lr-scale, raise --warmup-steps, or bound them with --offset-limit"
            )

    def save(self) -> None:
        """Write the checkpoint that `resume` continues from."""
        if not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        state = {
            "progress": vars(self.progress),
            "processes": self.accelerator.num_processes,
            "batches": self.batches,
            "data": self.fingerprint,
            "warned": self.warned,
            "model": self.accelerator.unwrap_model(self.model).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler_step": self.scheduler.last_epoch,
            "scaler": scaler.state_dict() if scaler is not None else {},
            # Of the main process: where there are several, each part of a step has a seed of its own.
            "random": random_state(),
        }
        # Weights and records first: no checkpoint says done before they are there.
        if self.validation is None:
            self._save_weights()
        self.reporter.sync()
        save_checkpoint(self.out / CHECKPOINT_FILE, state)

    def _save_weights(self) -> None:
        if self.accelerator.is_main_process:
            save_weights(self.out / WEIGHTS_FILE, self.accelerator.unwrap_model(self.model))

    def load(self, state: dict[str, Any], *, other_data: bool = False) -> None:
        """Put the run where the checkpoint was made.

        Raises:
            PliantError: the checkpoint is of another run, or incomplete; other processes cannot make its steps; or the
                data are others and `other_data` were not asked for.
        """
        try:
            self._restore(state, other_data=other_data)
        except PliantError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
            reason = f"it lacks or has a wrong {' '.join(str(error).split())[:200]}"
            fail_because("resume", f"must have the checkpoint of this run in {self.out}", reason, "train again")

    def _restore(self, state: dict[str, Any], *, other_data: bool) -> None:
        before, now = state["processes"], self.accelerator.num_processes
        if state["batches"] != self.batches:
            wanted, made = counted(state["batches"], "batch"), counted(before, "process")
            fix = f"start {made}, or train with --step-images from the beginning"
            fail("resume", f"must make steps of {wanted}, as {made} did", counted(self.batches, "batch"), fix)
        if before != now:
            note = "sums in another order, so that losses differ by rounding"
            self.notes.append(f"{counted(now, 'process')}, before {before}: {note}")
        if state["data"] != self.fingerprint:
            if not other_data:
                reason = f"split {self.training.split} of {self.config.data} holds other images"
                fail_because(
                    "resume", "must have the data of the run", reason, "restore them, or give --data to use these"
                )
            self.notes.append(f"continued on other images than before: {len(self.training)} of {self.config.data}")
        self.progress = Progress(**state["progress"])
        # Worked out anew: --epochs or --steps may ask for more than the run had.
        self.progress.done = self.progress.step >= self.total_steps
        self.warned = state["warned"]
        self.accelerator.unwrap_model(self.model).load_state_dict(state["model"])
        self.scheduler.last_epoch = state["scheduler_step"]
        self.optimizer.load_state_dict(state["optimizer"])
        # The next step's learning rate, which is another than was saved where the run has become longer.
        for group, base in zip(self.optimizer.param_groups, self.scheduler.base_lrs, strict=True):
            group["lr"] = base * lr_factor(self.config, self.scheduler.last_epoch, self.total_steps)
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        set_random_state(state["random"])


@contextmanager
def _tracked(accelerator: Accelerator, config: TrainConfig) -> Iterator[None]:
    """Let the experiment tracker of `config`, if there is one, take what is recorded."""
    settings = {name: value for name, value in config.as_dict().items() if isinstance(value, int | float | str)}
    accelerator.init_trackers("pliant", config=settings)
    try:
        yield
    finally:
        for tracker in accelerator.trackers:
            tracker.finish()


@contextmanager
def _signals(run: Run) -> Iterator[None]:
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
