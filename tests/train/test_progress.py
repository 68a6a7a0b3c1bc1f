# SPDX-License-Identifier: Apache-2.0
"""The file of metrics, of which a resumed run keeps what its checkpoint knows."""

from __future__ import annotations

import json
from pathlib import Path

from pliant.train.progress import drop_metrics_after, read_metrics


def test_metrics_after_the_checkpoint_are_dropped_and_a_cut_line_is_passed_over(tmp_path: Path) -> None:
    # Two steps an epoch; the record that ends an epoch has the number of the next one.
    places = [(1, 0), (2, 0), (2, 1), (3, 1)]
    lines = [json.dumps({"step": step, "epoch": epoch}) for step, epoch in places]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 4, "lo', encoding="utf-8")
    assert [r["step"] for r in read_metrics(tmp_path)] == [1, 2, 2, 3]
    drop_metrics_after(tmp_path, 2, 1)
    assert (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines() == lines[:3]
    drop_metrics_after(tmp_path, 2, 0)  # killed between the end of the epoch and its checkpoint
    assert (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines() == lines[:2]
