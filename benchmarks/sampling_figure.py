# SPDX-License-Identifier: Apache-2.0
"""Draws the README's picture of sampling points from committed data: `python -m benchmarks.sampling_figure`.

`--record demo` takes the data from what `make demo` left: parts of the photograph of the site that the detector of
trees was tested on (from the package `deepforest`, MIT), around its surest, its largest and its smallest detection, and
where the finest deformable layer samples at the middle of each.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "benchmarks" / "results" / "sampling"
FIGURE = ROOT / "docs" / "images" / "sampling-points.svg"
HALF = 48  # pixels of the photograph on each side of the middle
SCORE = 0.5  # of a sure detection, at least
INK = "#808080"  # readable on white and on black


def chosen(detections: list[dict[str, Any]], height: int, width: int) -> dict[str, tuple[float, float]]:
    """Return the middles (y, x) of the surest, the largest and the smallest sure detection well inside the image.

    Args:
        detections: COCO results of one image: `bbox` (x, y, width, height) and `score`.
        height: of the image, in pixels.
        width: of the image, in pixels.
    """
    inside = []
    for found in detections:
        x, y, w, h = found["bbox"]
        middle = (y + h / 2 - 0.5, x + w / 2 - 0.5)
        if found["score"] >= SCORE and HALF < middle[0] < height - HALF - 1 and HALF < middle[1] < width - HALF - 1:
            inside.append((found["score"], w * h, middle))
    return {
        "surest": max(inside, key=lambda entry: entry[0])[2],
        "largest": max(inside, key=lambda entry: entry[1])[2],
        "smallest": min(inside, key=lambda entry: entry[1])[2],
    }


def record(demo: Path) -> None:
    """Write parts of the photograph and the points on them into `DATA`."""
    from torchvision.io import write_png

    from pliant.analysis import record_offsets, sampling_points, view_of
    from pliant.data import open_detection
    from pliant.demo.run import whole_photograph
    from pliant.train.model import load_run

    model, _, _ = load_run(demo / "runs" / "trees")
    image, _ = open_detection(demo / "cache" / "trees", "test")[0]
    photo, _ = open_detection(demo / "cache", "test")[0]
    whole_photograph(model, image)
    view = view_of(model.eval(), image)
    field = record_offsets(view.network, view.input)[-1]
    detections = json.loads((demo / "runs" / "trees" / "predictions.json").read_text(encoding="utf-8"))
    places = {}
    DATA.mkdir(parents=True, exist_ok=True)
    for name, (y, x) in chosen(detections, *photo.shape[1:]).items():
        top, left = round(y) - HALF, round(x) - HALF
        write_png(
            photo[:, top : top + 2 * HALF + 1, left : left + 2 * HALF + 1].contiguous(), str(DATA / f"{name}.png")
        )
        places[name] = {
            "points": _moved(sampling_points([field], (y, x)), top, left),
            "plain": _moved(sampling_points([field.plain()], (y, x)), top, left),
        }
    content = {"layer": field.layer, "places": places}
    (DATA / "points.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _moved(points: Tensor, top: int, left: int) -> list[list[float]]:
    """Return points (y, x, weight) in pixels of a part that begins at `top` and `left`."""
    moved = points[:, :3] - torch.tensor([top, left, 0.0])
    return [[round(value, 2) for value in point] for point in moved.tolist()]


def draw(path: Path) -> None:
    """Draw the committed parts side by side."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    mpl.use("svg")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "pliant", "text.color": INK, "font.size": 11})
    content = json.loads((DATA / "points.json").read_text(encoding="utf-8"))
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, len(content["places"]))
    for axes, (name, place) in zip(panels, content["places"].items(), strict=True):
        axes.imshow(mpl.image.imread(DATA / f"{name}.png"), interpolation="none")
        y, x, weight = zip(*place["points"], strict=True)
        plain_y, plain_x, _ = zip(*place["plain"], strict=True)
        axes.scatter(plain_x, plain_y, s=40, marker="s", facecolor="none", edgecolor="white", label="plain convolution")
        sizes = [60 * w / max(weight) + 4 for w in weight]
        axes.scatter(x, y, s=sizes, color="#ff7f0e", edgecolor="black", linewidth=0.5, label="deformable convolution")
        axes.set_title(f"{name} tree found", fontsize=11)
        axes.set_axis_off()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, facecolor="#404040",
                  labelcolor="white", framealpha=1.0)  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, transparent=True, metadata={"Date": None})


def main() -> None:
    """Draw, after recording where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", type=Path, metavar="DIR", help="folder that `make demo` wrote")
    arguments = parser.parse_args()
    if arguments.record is not None:
        record(arguments.record)
    draw(FIGURE)
    print(f"wrote {FIGURE}")


if __name__ == "__main__":
    main()
