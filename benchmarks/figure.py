# SPDX-License-Identifier: Apache-2.0
"""Draws the README's figure of speed from the committed results: `make bench-figure`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
from matplotlib import pyplot as plt

GREY = "#8b949e"  # readable on white and on black
COLOURS = {
    "pliant channels_last": "#1f9d55",
    "pliant contiguous": "#7bc89c",
    "onnxruntime": "#c98a1b",
    "openvino": "#a06cd5",
    "torchvision": "#d64545",
}
NAMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


def rows(path: Path, mode: str) -> dict[str, dict[str, float]]:
    """Return the ratios of the dense float32 layers of a result, by case."""
    results = json.loads(path.read_text(encoding="utf-8"))["results"]
    return {
        r["case"]: r["ratio"]
        for r in results
        if r.get("mode") == mode and r["case"].startswith("(") and r["case"].endswith(") float32") and "ratio" in r
    }


def draw(path: Path, out: Path) -> None:
    """Draw both modes of one machine's result, as bars on a logarithmic axis."""
    plt.rcParams.update(
        {"text.color": GREY, "axes.labelcolor": GREY, "xtick.color": GREY, "ytick.color": GREY, "axes.edgecolor": GREY}
    )
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharey=True)
    for axis, mode in zip(axes, ("forward", "forward and backward"), strict=True):
        found = rows(path, mode)
        contenders = [name for name in COLOURS if any(name in ratios for ratios in found.values())]
        height = 0.8 / len(contenders)
        for i, name in enumerate(contenders):
            places = [y + i * height for y, ratios in enumerate(found.values()) if name in ratios]
            values = [ratios[name] for ratios in found.values() if name in ratios]
            axis.barh(places, values, height, color=COLOURS[name], label=NAMES.get(name, name))
            for y, value in zip(places, values, strict=True):
                axis.text(value * 1.03, y, f"{value:.2f}" if value < 10 else f"{value:.0f}", va="center", fontsize=6)
        axis.axvline(1, color=GREY, linewidth=1)
        axis.set(xscale="log", title=mode, xlabel="times as long as plain conv2d (less is better)")
        axis.set_yticks([y + 0.4 - height / 2 for y in range(len(found))], [case.split(" ")[0] for case in found])
        axis.spines[["top", "right"]].set_visible(False)
        axis.title.set_color(GREY)
    axes[0].invert_yaxis()
    axes[0].set_ylabel("(N, C, H, W, O), 3x3, modulated")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=5, frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, transparent=True, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Draw the figure of one result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/cpu-zen5-2cores.json"))
    parser.add_argument("--out", type=Path, default=Path("docs/images/speed.svg"))
    arguments = parser.parse_args()
    draw(arguments.results, arguments.out)
    print(f"written to {arguments.out} ({arguments.out.stat().st_size // 1024} kB)")


if __name__ == "__main__":
    main()
