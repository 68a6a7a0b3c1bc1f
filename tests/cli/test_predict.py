# SPDX-License-Identifier: Apache-2.0
"""`pliant predict` on patterns and videos."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.runs import DETECTOR, write_run
from helpers.shapes import write_shapes
from helpers.videos import write_video
from pliant.cli import main

pytest.importorskip("av")


def test_predict_takes_patterns_and_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, data = write_run(tmp_path / "run", **DETECTOR), write_shapes(tmp_path / "data", {"test": 3})
    images = [str(data / "te*" / "*1.png"), str(write_video(tmp_path / "clip.mp4", 5))]
    assert main(["predict", str(run), *images, "--every", "2", "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    pictures = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert pictures == ["0001_001.png", "0002_clip_000000.png", "0003_clip_000002.png", "0004_clip_000004.png"]
    results = json.loads((tmp_path / "out" / "predictions.json").read_text(encoding="utf-8"))
    frames = {(result["image_id"], result.get("frame")) for result in results}
    assert (1, None) in frames and frames <= {(1, None), (2, 0), (3, 2), (4, 4)}
    assert "detections on 4 images" in capsys.readouterr().out
