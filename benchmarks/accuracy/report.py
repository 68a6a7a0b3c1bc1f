# SPDX-License-Identifier: Apache-2.0
"""Tables and the figure of the study of warped shapes, from its committed rows: `python -m benchmarks.accuracy.report`.

The tables are written into docs/evidence.md between two marks, the figure into docs/figures; a test holds the page to
the rows.
"""

from __future__ import annotations

import itertools
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks.accuracy.intervals import mean, paired
from benchmarks.accuracy.rows import Row, read_rows
from benchmarks.accuracy.warped import ARMS, ROWS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "evidence.md"
FIGURE = ROOT / "docs" / "figures" / "accuracy-against-warp.svg"
START, END = "<!-- warped: begin -->", "<!-- warped: end -->"
CONTROL = "plain-equal"
# Readable on white and on black.
INK = "#808080"
COLOURS = {
    "plain": "#a0a0a0", "plain-equal": "#7f7f7f", "dcnv1-1": "#9ecae1", "dcnv1-2": "#4a90d9", "dcnv2-1": "#f5a35c",
    "dcnv2-2": "#e6701a",
}  # fmt: skip


def by_seed(rows: Sequence[Row], **wanted: object) -> dict[int, float]:
    """Return the accuracy at the end for each seed of the runs whose key has the wanted values."""
    chosen = [row for row in rows if all(row["key"][name] == value for name, value in wanted.items())]
    return {row["key"]["seed"]: row["accuracy"][-1] for row in chosen}


def tables(rows: Sequence[Row]) -> str:
    """Return a table for each data set and length of training that has rows, strengths in rows and arms in columns."""
    parts = []
    for dataset, epochs in sorted({(row["key"]["dataset"], row["key"]["epochs"]) for row in rows}):
        some = [row for row in rows if (row["key"]["dataset"], row["key"]["epochs"]) == (dataset, epochs)]
        parts.append(f"**{dataset}, {epochs} epochs**\n\n{_table(some)}\n")
    return "\n".join(parts) + f"\n{provenance(rows)}\n" if parts else "No run is finished yet.\n"


def _table(rows: Sequence[Row]) -> str:
    arms = [arm for arm in ARMS if any(row["key"]["arm"] == arm for row in rows)]
    size = {row["key"]["arm"]: row["parameters"] for row in rows}
    lines = ["| strength of the warp | " + " | ".join(f"{arm}, {size[arm]:,} parameters" for arm in arms) + " |"]
    lines.append("|---" * (len(arms) + 1) + "|")
    for strength in sorted({row["key"]["strength"] for row in rows}):
        control = by_seed(rows, strength=strength, arm=CONTROL)
        cells = []
        for arm in arms:
            ours = by_seed(rows, strength=strength, arm=arm)
            gain = paired(ours, control) if arm != CONTROL else None
            cells.append((str(mean(list(ours.values()))) if ours else "") + (f"; gain {_signed(gain)}" if gain else ""))
        lines.append(f"| {strength} | " + " | ".join(cells) + " |")
    seconds = [statistics.fmean(r["cpu_seconds"][-1] for r in rows if r["key"]["arm"] == arm) for arm in arms]
    lines.append("| CPU seconds of training, mean | " + " | ".join(f"{value:.0f}" for value in seconds) + " |")
    return "\n".join(lines)


def _signed(gain: object) -> str:
    text = str(gain)
    return text if text.startswith("-") else f"+{text}"


def provenance(rows: Sequence[Row]) -> str:
    """Return a sentence with the number of runs, the machine and the commits."""
    machines = Counter(f"{row['machine']['cpu']}, PyTorch {row['machine']['torch']}" for row in rows)
    commits = ", ".join(sorted({row["commit"] for row in rows}))
    return f"{len(rows)} runs of one thread each, on {'; '.join(machines)}; commit {commits}."


def with_tables(page: str, content: str) -> str:
    """Return the page with what stands between the marks replaced."""
    pattern = re.compile(re.escape(START) + ".*?" + re.escape(END), re.DOTALL)
    if len(pattern.findall(page)) != 1:
        raise ValueError(f"the page must hold {START} and {END} once")
    return pattern.sub(lambda _: f"{START}\n\n{content}\n{END}", page)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw accuracy against strength for the data set and the length of training that most runs have."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "pliant", "text.color": INK, "axes.labelcolor": INK})
    mpl.rcParams.update({"xtick.color": INK, "ytick.color": INK, "axes.edgecolor": INK, "font.size": 11})
    from matplotlib.figure import Figure

    (dataset, epochs), _ = Counter((r["key"]["dataset"], r["key"]["epochs"]) for r in rows).most_common(1)[0]
    some = [row for row in rows if (row["key"]["dataset"], row["key"]["epochs"]) == (dataset, epochs)]
    figure = Figure(figsize=(6.4, 3.8), layout="constrained")
    axes = figure.add_subplot()
    for arm, shift in zip(ARMS, itertools.count(-0.01, 0.004), strict=False):
        points = {s: by_seed(some, strength=s, arm=arm) for s in sorted({row["key"]["strength"] for row in some})}
        means = {strength: mean(list(seeds.values())) for strength, seeds in points.items() if seeds}
        if means:
            axes.errorbar([s + shift for s in means], [m.value for m in means.values()],
                          [m.half or 0.0 for m in means.values()], label=arm, color=COLOURS[arm], marker="o",
                          markersize=4, capsize=2)  # fmt: skip
    axes.set_xlabel("strength of the warp (0: upright; 1: any angle, 0.6 to 1.5 times as large, sheared, moved)")
    axes.set_ylabel("top-1 accuracy")
    axes.set_title(f"{dataset}, {epochs} epochs; bars: 95 % intervals over seeds", fontsize=11)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, transparent=True, metadata={"Date": None})


def main() -> None:
    """Write the tables into the page, and the figure if there is a run."""
    rows = read_rows(ROWS)
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), tables(rows)), encoding="utf-8")
    print(f"wrote the tables of {len(rows)} runs into {PAGE}")
    if rows:
        draw(rows, FIGURE)
        print(f"wrote {FIGURE}")


if __name__ == "__main__":
    main()
