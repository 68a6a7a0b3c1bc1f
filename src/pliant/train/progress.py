# SPDX-License-Identifier: Apache-2.0
"""What a person sees of a run, and what its folder keeps of it: a progress bar, `log.txt` and `metrics.jsonl`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from pliant._check import PliantError, fail, plain
from pliant._files import is_id, read_bounded
from pliant.train.files import AppendedFile, write_atomically

METRICS_FILE = "metrics.jsonl"
LOG_FILE = "log.txt"
Track = Callable[[dict[str, float], int], None]
_MAX_METRICS = 2**30


class RunReporter:
    """Shows the progress of a run on standard error and writes its folder's log and metrics.

    Where standard error is no terminal, lines take the place of the bar. `unit` is the name of the metric, and `track`
    takes the numbers of each record and their step. A `quiet` one, of a process that is not the main one, neither shows
    nor writes anything.
    """

    def __init__(self, run: Path, total_steps: int, unit: str, track: Track, *, quiet: bool = False) -> None:
        self.run, self.track, self.quiet = run, track, quiet
        self.console = Console(stderr=True, quiet=quiet)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn(f"loss {{task.fields[loss]}}  {unit} {{task.fields[metric]}}  ETA"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=quiet,
        )
        self._task: TaskID = self._bar.add_task("train", total=total_steps, loss="-", metric="-")

    def __enter__(self) -> Self:
        metrics, log = (Path(os.devnull),) * 2 if self.quiet else (self.run / METRICS_FILE, self.run / LOG_FILE)
        self._metrics, self._log = AppendedFile(metrics), AppendedFile(log)
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._bar.stop()
            if error is not None:
                with suppress(PliantError):  # on a full disk, of which the error tells already
                    self._log.write(f"{kind.__name__ if kind else ''}: {plain(error)}\n")
        finally:
            self._metrics.close()
            self._log.close()

    def say(self, text: str) -> None:
        """Print a line above the bar and keep it in the log; control characters in names are escaped."""
        text = plain(text)
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)
        self._log.write(text + "\n")

    def step(self, step: int, loss: float) -> None:
        """Move the bar to `step` (steps done) and show `loss`."""
        self._bar.update(self._task, completed=step, loss=f"{loss:.3f}")

    def sync(self) -> None:
        """Flush the records to disk, before a checkpoint that comes after them."""
        if not self.quiet:
            self._metrics.sync()

    def show_metric(self, value: float) -> None:
        """Show the last value of the metric (0..1) in the bar."""
        self._bar.update(self._task, metric=f"{value:.3f}")

    @contextmanager
    def evaluation(self, images: int) -> Iterator[Any]:
        """Show a second bar while `images` images are evaluated; yields the function (done, total) that moves it."""
        task = self._bar.add_task("evaluate", total=images, loss="-", metric="-")
        try:
            yield lambda done, total: self._bar.update(task, completed=done, total=total)
        finally:
            self._bar.remove_task(task)

    def record(self, record: Mapping[str, Any]) -> None:
        """Append a record to `metrics.jsonl` and give its numbers to the tracker; `step` must be in it."""
        self._metrics.write(json.dumps(record) + "\n")
        self.track({name: value for name, value in record.items() if isinstance(value, float)}, record["step"])
        if "loss" in record and not self.console.is_terminal:
            self.say(f"step {record['step']}  loss {record['loss']:.4f}  lr {record['lr']:.2e}")


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Return the records of a run's `metrics.jsonl`; a last line cut short by a kill is passed over."""
    path = run / METRICS_FILE
    lines = read_bounded(path, _MAX_METRICS).splitlines() if path.is_file() else []
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if isinstance(record, dict) and all(is_id(record.get(name)) for name in ("step", "epoch")):
            records.append(record)
        elif number < len(lines):
            fail(f"{path}, line {number}", "must be a record with a step and an epoch", f"{line[:40]!r}", "remove it")
    return records


def drop_metrics_after(run: Path, step: int, epoch: int) -> None:
    """Rewrite `metrics.jsonl` without what a run resumed after `step`, within `epoch` (from 0), will write again.

    The record that ends an epoch has the number of the next one. It goes too if the checkpoint was made before it.
    """
    kept = [record for record in read_metrics(run) if record["step"] <= step and record["epoch"] <= epoch]
    lines = [json.dumps(record) + "\n" for record in kept]
    write_atomically(run / METRICS_FILE, lambda path: path.write_text("".join(lines), encoding="utf-8"))
