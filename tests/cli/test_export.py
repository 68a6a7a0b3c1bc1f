# SPDX-License-Identifier: Apache-2.0
"""`pliant export` as a user types it."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.runs import DETECTOR, write_photo, write_run
from pliant.cli import main
from pliant.export import parity

pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector whose pyramid is deformable too: behind an upsampling, no exporter knows its channels."""
    settings = {"deform": r"layer4|fpn\.layer_blocks", **DETECTOR}
    return write_run(tmp_path_factory.mktemp("runs") / "run", **settings)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_photo(tmp_path_factory.mktemp("photos") / "photo.png")


@pytest.mark.parametrize("options", [[], ["--decompose"]], ids=["deform_conv", "plain"])
def test_a_detector_with_a_deformable_pyramid(
    run: Path, photo: Path, tmp_path: Path, options: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    onnx = pytest.importorskip("onnx")
    out = tmp_path / "new" / "model.onnx"
    arguments = ["export", str(run), "--size", "60", "80", "--image", str(photo), "--out", str(out), *options]
    assert main(arguments) == 0
    printed = capfd.readouterr()
    first, second = printed.out.splitlines()  # nothing but our own lines
    assert first == f"wrote {out}: image (3, 60, 80), RGB 0..1, to boxes, labels, scores"
    assert second.startswith("detections: detections without a partner 0 of ")
    assert printed.err == ""
    kinds = {node.op_type for node in onnx.load(out).graph.node}
    assert ("DeformConv" in kinds) == (not options)
    assert ("GridSample" in kinds) == bool(options)


def test_a_difference_over_the_budget_is_status_1(
    run: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(parity, "MAX_SCORE", -1.0)  # so that nothing is near enough
    arguments = ["export", str(run), "--size", "60", "80", "--image", str(photo), "--out", str(tmp_path / "m.onnx")]
    assert main(arguments) == 1
    printed = capsys.readouterr()
    assert "detections without a partner 1 of" in printed.out
    assert printed.out.rstrip().endswith("at most 0.02 (too much)")
    assert printed.err == "pliant: the file's predictions differ from the model's by more than that\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--out", "m.engine"],
            "out: must end in .onnx, the one kind of file that is written; got m.engine; use m.onnx",
        ),
        (
            ["--out", "m.onnx", "--opset", "17"],
            "opset: must be at least 19, the first with DeformConv; got 17; leave it",
        ),
        (["--out", "m.onnx", "--opset", "15", "--decompose"], "opset: must be at least 16, the first with GridSample"),
    ],
)
def test_what_is_refused(
    run: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run)
    assert main(["export", str(run), "--size", "60", "80", *options]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert not Path(options[1]).exists()
