# SPDX-License-Identifier: Apache-2.0
"""`pliant predict` on patterns and videos."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.runs import write_run
from helpers.shapes import write_shapes
from pliant.cli import main

av = pytest.importorskip("av")
DETECTOR = {"strides": [8, 16], "fpn_channels": 16, "head_channels": 32, "anchor_sizes": [16.0, 32.0, 64.0]}


def test_predict_takes_patterns_and_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, data = write_run(tmp_path / "run", **DETECTOR), write_shapes(tmp_path / "data", {"test": 3})
    with av.open(str(tmp_path / "clip.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame(64, 48, "yuv420p")))
        container.mux(stream.encode())
    images = [str(data / "te*" / "*1.png"), str(tmp_path / "clip.mp4")]
    assert main(["predict", str(run), *images, "--every", "2", "--out", str(tmp_path / "out"), "--device", "cpu"]) == 0
    pictures = sorted(path.name for path in (tmp_path / "out").glob("*.png"))
    assert pictures == ["0001_001.png", "0002_clip_000000.png", "0003_clip_000002.png", "0004_clip_000004.png"]
    results = json.loads((tmp_path / "out" / "predictions.json").read_text(encoding="utf-8"))
    frames = {(result["image_id"], result.get("frame")) for result in results}
    assert (1, None) in frames and frames <= {(1, None), (2, 0), (3, 2), (4, 4)}
    assert "detections on 4 images" in capsys.readouterr().out
