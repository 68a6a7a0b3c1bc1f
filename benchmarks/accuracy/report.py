# SPDX-License-Identifier: Apache-2.0
"""Tables and a figure of the studies, from their committed rows: `python -m benchmarks.accuracy.report`.

The tables are written into docs/evidence.md, each study's between its two marks, and the figure of accuracy against the
strength of the warp into docs/images; a test holds the page to the rows.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.accuracy import ablations, detection, detection_table, equal_time, instances, scenes_table, segmentation
from benchmarks.accuracy.curves import by_seed, mean_seconds
from benchmarks.accuracy.intervals import mean, paired, signed
from benchmarks.accuracy.rows import Row, read_rows
from benchmarks.accuracy.warped import ARMS, CONTROL, ROWS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "evidence.md"
FIGURE = ROOT / "docs" / "images" / "accuracy-against-warp.svg"
# Readable on white and on black.
INK = "#808080"
COLOURS = {
    "plain": "#a0a0a0", "plain-equal": "#7f7f7f", "dcnv1-1": "#9ecae1", "dcnv1-2": "#4a90d9", "dcnv2-1": "#f5a35c",
    "dcnv2-2": "#e6701a",
}  # fmt: skip


def tables(rows: Sequence[Row], length: str, table: Callable[[Sequence[Row]], str]) -> str:
    """Return a table for each data set and length of training that has rows.

    Args:
        rows: of one study.
        length: what the study calls its length of training, a part of the key: `epochs` or `steps`.
        table: of the rows of one data set and one length.
    """
    parts = []
    for dataset, count in sorted({(row["key"]["dataset"], row["key"][length]) for row in rows}):
        some = [row for row in rows if (row["key"]["dataset"], row["key"][length]) == (dataset, count)]
        parts.append(f"**{dataset}, {count} {length}**\n\n{table(some)}\n")
    return "\n".join(parts) + f"\n{provenance(rows)}\n" if parts else "No run is finished yet.\n"


def warped_table(rows: Sequence[Row]) -> str:
    """Return a table with the strengths of the warp in rows and the arms in columns."""
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
            cells.append((str(mean(list(ours.values()))) if ours else "") + (f"; gain {signed(gain)}" if gain else ""))
        lines.append(f"| {strength} | " + " | ".join(cells) + " |")
    seconds = [mean_seconds([row for row in rows if row["key"]["arm"] == arm]) for arm in arms]
    lines.append("| CPU seconds of training, mean | " + " | ".join(f"{value:.0f}" for value in seconds) + " |")
    return "\n".join(lines)


def equal_time_table(rows: Sequence[Row]) -> str:
    """Return the table at equal CPU time of animals at full strength, whose trainings have several lengths.

    The first rows, of another processor, do not say their instruction set; seconds of two processors do not compare.
    """
    some = [row for row in rows if (row["key"]["dataset"], row["key"]["strength"]) == ("animals", 1.0)]
    alike = [row for row in some if "instructions" in row["machine"]]
    return equal_time.table(alike, [arm for arm in ARMS if arm != "plain"]) + "\n"


def ablation_table(rows: Sequence[Row]) -> str:
    """Return a table with an arm in each row, beside its difference to the base over the seeds that both have."""
    base = by_seed(rows, arm=ablations.BASE)
    lines = ["| arm | parameters | top-1 | to the base | CPU seconds |", "|---|---|---|---|---|"]
    for arm in ablations.ARMS:
        own = [row for row in rows if row["key"]["arm"] == arm]
        if not own:
            continue
        ours = by_seed(own)
        difference = paired(ours, base) if arm != ablations.BASE else None
        seconds = mean_seconds(own)
        cells = [
            arm,
            f"{own[0]['parameters']:,}",
            str(mean(list(ours.values()))),
            signed(difference) if difference else "",
        ]
        lines.append("| " + " | ".join([*cells, f"{seconds:.0f}"]) + " |")
    return "\n".join(lines)


def segmentation_table(rows: Sequence[Row]) -> str:
    """Return the tables of the segmenters."""
    return scenes_table.table(rows, segmentation.STUDY, {"mIoU": "miou"})


def instance_table(rows: Sequence[Row]) -> str:
    """Return the tables of boxes, then those of masks."""
    return "\n\n".join(
        scenes_table.table(
            rows,
            instances.STUDY,
            {f"{kind} AP": f"{start}ap", "AP50": f"{start}ap50", "small": f"{start}ap_small",
             "medium": f"{start}ap_medium"},
        )
        for kind, start in (("box", ""), ("mask", "mask_"))
    )  # fmt: skip


def provenance(rows: Sequence[Row]) -> str:
    """Return a sentence with the number of runs, the machine and the commits."""
    machines = Counter(f"{_processor(row['machine'])}, PyTorch {row['machine']['torch']}" for row in rows)
    commits = ", ".join(sorted({row["commit"] for row in rows}))
    return f"{len(rows)} runs of one thread each, on {'; '.join(machines)}; commit {commits}."


def _processor(machine: dict[str, Any]) -> str:
    """Return the processor's name and its instruction set, which the first rows do not have."""
    return f"{machine['cpu']} ({machine['instructions']})" if "instructions" in machine else str(machine["cpu"])


def with_tables(page: str, study: str, content: str) -> str:
    """Return the page with what stands between the marks of a study replaced."""
    start, end = f"<!-- {study}: begin -->", f"<!-- {study}: end -->"
    pattern = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
    if len(pattern.findall(page)) != 1:
        raise ValueError(f"the page must hold {start} and {end} once")
    return pattern.sub(lambda _: f"{start}\n\n{content}\n{end}", page)


def written(page: str) -> str:
    """Return the page with the tables of all committed rows."""
    for study, path, length, table in (
        ("warped", ROWS, "epochs", warped_table),
        ("ablations", ablations.ROWS, "epochs", ablation_table),
        ("segmentation", segmentation.STUDY.rows, "epochs", segmentation_table),
        ("instances", instances.STUDY.rows, "epochs", instance_table),
        ("detection", detection.ROWS, "steps", detection_table.table),
    ):
        page = with_tables(page, study, tables(read_rows(path), length, table))
    return with_tables(page, "equal-time", equal_time_table(read_rows(ROWS)))


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
    axes.set_xlabel("strength of the warp (0: upright; 1: any angle, size and shear)")
    axes.set_ylabel("top-1 accuracy")
    axes.set_title(f"{dataset}, {epochs} epochs; bars: 95 % intervals over seeds", fontsize=11)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, transparent=True, metadata={"Date": None})


def main() -> None:
    """Write the tables into the page, and the figure if there is a run."""
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"wrote the tables into {PAGE}")
    rows = read_rows(ROWS)
    if rows:
        draw(rows, FIGURE)
        print(f"wrote {FIGURE}")


if __name__ == "__main__":
    main()
