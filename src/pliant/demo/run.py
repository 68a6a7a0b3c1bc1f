# SPDX-License-Identifier: Apache-2.0
"""Runs the demonstration: a deformable detector of trees, and what deformation buys on animals turned by any angle."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from pliant._check import counted, fail
from pliant._writing import write_text
from pliant.analysis import (
    draw_boxes,
    draw_curves,
    draw_panels,
    draw_sampling,
    explain,
    record_offsets,
    sampling_points,
    view_of,
)
from pliant.data import DetectionDataset, open_detection
from pliant.demo.animals import compare, curves, table
from pliant.demo.fetch import SILHOUETTES, WEIGHTS, fetch
from pliant.demo.trees import write_trees
from pliant.evaluation import CocoMetrics, coco_results, evaluate_detections, save_results
from pliant.train import TrainConfig
from pliant.train.engine import detect
from pliant.train.files import write_json
from pliant.train.model import load_run
from pliant.train.progress import read_metrics
from pliant.train.run import train

# The photograph holds 279 trees, more than the 100 detections that COCO's metric counts.
MAX_DETECTIONS = 500
DRAWN_SCORE = 0.5
MARGIN = 90.0
DEFORM = r"fpn\.layer_blocks"
SHOWN = {
    "animals.png": "plain against deformable classifiers, upright and at any angle",
    "trees.png": "the trees found on the photograph of the other site",
    "report.html": "the same photograph to look around in, with pointer or arrow keys: open it in a browser",
}


@dataclass(frozen=True)
class Outcome:
    """The trained detector, its metric on the other site, seconds of training, its run folder and its detections."""

    model: nn.Module
    metrics: CocoMetrics
    seconds: float
    run: Path
    detections: dict[str, Tensor]


def run_demo(out: Path, *, cache: Path | None = None, steps: int, epochs: int, seed: int = 0) -> Outcome:
    """Train a detector of trees and test it on another site, compare classifiers of animals, and write all into `out`.

    Args:
        out: folder for the results; what an earlier demo left there is replaced.
        cache: folder of the downloaded data (37 MB); None: `out/cache`.
        steps: optimizer steps of the detector.
        epochs: of each classifier.
        seed: of weights, order and augmentation.

    Raises:
        PliantError: no network at the first run, or a downloaded file that is not the one expected.
    """
    console = Console(soft_wrap=True)
    out.mkdir(parents=True, exist_ok=True)
    folder = fetch(cache if cache is not None else out / "cache")
    console.print(f"[bold]1. trees[/bold]: a detector with deformable layers ({DEFORM}), {counted(steps, 'step')}")
    outcome = _trees(folder, out, steps=steps, seed=seed)
    console.print((out / "coco.txt").read_text(encoding="utf-8"), highlight=False, markup=False)
    console.print(f"[bold]2. animals[/bold]: what deformation buys, {epochs} epochs each")
    arms = compare(folder / SILHOUETTES, epochs=epochs, seed=seed)
    write_text(out / "animals.txt", table(arms))
    draw_panels(curves(arms), out / "animals.png", y="top-1 accuracy on other animals")
    console.print((out / "animals.txt").read_text(encoding="utf-8"), highlight=False, markup=False)
    console.print(
        "open these:", *(f"  {out / name}: {what}" for name, what in SHOWN.items()), sep="\n", highlight=False
    )
    return outcome


def _trees(photos: Path, out: Path, *, steps: int, seed: int) -> Outcome:
    data = write_trees(photos, photos / "trees")
    site = open_detection(data, "test")
    config = demo_config(data, photos / WEIGHTS, steps=steps, seed=seed)
    outcome = _train_and_test(config, out / "runs" / "trees", site)
    _write(outcome, out, site, open_detection(photos, "test")[0][0])
    return outcome


def demo_config(data: Path, weights: Path, *, steps: int, seed: int) -> TrainConfig:
    """Return the settings of the demonstration; docs/demo.md says how they were chosen."""
    return TrainConfig(
        data=str(data),
        val_split=None,
        backbone="mobilenet_v2",
        weights=str(weights),
        deform=DEFORM,
        norm="batch",
        frozen_stages=2,
        strides=(8, 16, 32),
        fpn_channels=96,
        head_channels=256,
        roi_samples=128,
        anchor_sizes=(32.0, 64.0, 128.0, 256.0),
        anchor_scales=(0.6, 1.0, 1.5),
        anchor_ratios=(1.0,),
        min_size=(256, 320, 400),
        max_size=4000,
        proposals=4000,
        max_detections=MAX_DETECTIONS,
        crop=320,
        rotate90=True,
        steps=steps,
        batch_size=2,
        optimizer="adamw",
        lr=1e-3,
        weight_decay=1e-2,
        offset_lr_scale=1.0,
        schedule="onecycle",
        grad_clip=10.0,
        checkpoint_every=steps,
        log_every=1,
        seed=seed,
        device="cpu",
    )


def _train_and_test(config: TrainConfig, run: Path, site: DetectionDataset) -> Outcome:
    shutil.rmtree(run, ignore_errors=True)
    started = time.monotonic()
    if not train(config, run):
        raise KeyboardInterrupt
    seconds = time.monotonic() - started
    model, _, _ = load_run(run)
    image, target = site[0]
    whole_photograph(model, image)
    detections = detect(model, image, torch.device("cpu"))
    results = coco_results([(int(target["image_id"]), detections)], site.categories)
    save_results(results, run / "predictions.json")
    metrics = evaluate_detections(site.coco_ground_truth(), results, max_detections=MAX_DETECTIONS)
    return Outcome(model, metrics, seconds, run, detections)


def whole_photograph(model: nn.Module, image: Tensor) -> None:
    """Let the detector take the photograph in one piece and at its own scale."""
    transform: GeneralizedRCNNTransform = model.get_submodule("transform")
    transform.min_size = (min(image.shape[1:]),)
    transform.max_size = max(image.shape[1:])


def _write(outcome: Outcome, out: Path, site: DetectionDataset, photo: Tensor) -> None:
    """Write tables and pictures; the boxes are drawn on `photo`, in its own colours."""
    write_text(out / "coco.txt", report(outcome))
    values = {"train_seconds": round(outcome.seconds, 1), **outcome.metrics.as_dict()}
    write_json(out / "coco.json", values)
    draw_curves({"detector of trees": read_metrics(outcome.run)}, out / "loss.png")
    image, target = site[0]
    shown = outcome.detections["boxes"][outcome.detections["scores"] >= DRAWN_SCORE]
    title = (
        f"held-out site: {len(shown)} predicted (orange, score >= {DRAWN_SCORE}), {len(target['boxes'])} true (green)"
    )
    draw_boxes(photo, shown, out / "trees.png", true=target["boxes"], title=title)
    _draw_sampling(outcome, image, photo, out / "sampling.png")
    names = [category.name for category in site.categories]
    options: dict[str, Any] = {"detections": outcome.detections, "min_score": DRAWN_SCORE, "title": "The held-out site"}
    # Few receptive fields, so that the page takes seconds.
    page = explain(outcome.model, image, names=names, units=6, saliency=1, budget=10, **options)
    page.save(out / "report.html")


def report(outcome: Outcome) -> str:
    """Return the table of the detector and what its numbers mean."""
    return (
        f"trained in {outcome.seconds:.0f} s, tested on a site that it has not seen\n{outcome.metrics.table()}\n"
        f"({counted(MAX_DETECTIONS, 'detection')} count, not COCO's 100: the photograph holds more trees than that)\n"
    )


def _draw_sampling(outcome: Outcome, image: Tensor, photo: Tensor, path: Path) -> None:
    """Draw where the finest deformable layer samples for the surest tree that lies well inside the photograph."""
    view = view_of(outcome.model, image)
    field = record_offsets(view.network, view.input)[-1]
    boxes = outcome.detections["boxes"]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2 - 0.5
    size = torch.tensor([image.shape[2], image.shape[1]])
    inside = ((centres > MARGIN) & (centres < size - MARGIN)).all(dim=1)
    if not inside.any():
        fail("demo", "must find one tree at least", "none", "train for more --steps")
    x, y = centres[inside][0].tolist()
    points = sampling_points([field], (y, x))
    regular = sampling_points([field.plain()], (y, x))[:, :2]
    title = f"{field.layer} at a predicted tree (size of a point: its modulation)"
    draw_sampling(photo, points, (y, x), path, regular=regular, margin=MARGIN, title=title)
