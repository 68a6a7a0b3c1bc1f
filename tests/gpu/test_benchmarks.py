# SPDX-License-Identifier: Apache-2.0
"""The benchmarks of the GPU, as far as they go without one: what is compared does the same, and nothing is made up."""

from __future__ import annotations

import dataclasses
import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from pliant.nn import DeformConv2d

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return what imports a module of the folder of benchmarks, where the operators run on any device."""
    monkeypatch.syspath_prepend(ROOT)

    def load(name: str) -> ModuleType:
        module = importlib.import_module(f"benchmarks.{name}")
        if hasattr(module, "IMPL"):
            monkeypatch.setattr(module, "IMPL", "auto")
        return module

    return load


@pytest.mark.parametrize("groups", [1, 8])
def test_convolutions_compute_the_same(benchmark: Any, groups: int) -> None:
    module = benchmark("gpu_convolution")
    case = module.ConvCase("tiny", (2, 8, 5, 7), 8, "smooth", groups)
    for training, count in ((False, 1), (True, 5)):
        results = {name: run() for name, run in case.contenders(training=training, device="cpu").items()}
        assert set(results) == {
            "cuDNN conv2d", "cuDNN conv2d float32", "pliant", "pliant float16", "pliant float32",
            "pliant without Triton", "torchvision under autocast", "torchvision float16",
        } | ({"pliant deterministic"} if training else set())  # fmt: skip
        truth = tensors(results["pliant float32"])
        assert len(truth) == count
        for name, result in results.items():
            if not name.startswith("cuDNN"):
                for i, (found, expected) in enumerate(zip(tensors(result), truth, strict=True)):
                    if (name, i) != ("torchvision float16", 2):  # whose rounded offsets may lie in another cell
                        torch.testing.assert_close(found.float(), expected.float(), rtol=0.1, atol=0.1, msg=name)


def tensors(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else list(result)


def test_offsets_are_spread_as_named(benchmark: Any) -> None:
    module = benchmark("gpu_convolution")
    spread = {}
    for offsets in ("zero", "smooth", "independent"):
        offset = module.ConvCase("x", (1, 4, 40, 40), 4, offsets).tensors(device="cpu")["offset"]
        spread[offsets] = (offset.std().item(), (offset[..., 1:] - offset[..., :-1]).std().item())
    assert spread["zero"] == (0, 0)
    assert spread["smooth"][0] == pytest.approx(1, abs=0.15)
    assert spread["smooth"][1] < 0.6, "neighbours look at nearly the same place"
    assert spread["independent"] == pytest.approx((3, 3 * 2**0.5), rel=0.05)


def test_poolings_compute_the_same(benchmark: Any) -> None:
    boxes = benchmark("roi_pooling").RoICase(2, boxes=9, channels=5, height=6, width=8)
    case = benchmark("gpu_pooling").PoolingCase("tiny", boxes)
    for training in (False, True):
        results = {name: run() for name, run in case.contenders(training=training, device="cpu").items()}
        assert set(results) == {
            "roi_align float32", "roi_align float16", "pliant rigid",
            "pliant deformed", "pliant deformed float16", "pliant deformed float32",
        } | ({"pliant with boxes", "pliant deterministic"} if training else set())  # fmt: skip
        for names in (("roi_align float32", "pliant rigid"), ("pliant deformed float32", "pliant deformed")):
            expected, found = (tensors(results[name]) for name in names)
            assert len(found) == (1 if not training else 2 if "rigid" in names[1] else 4)
            for a, b in zip(found, expected, strict=True):
                torch.testing.assert_close(a.float(), b.float(), rtol=0.1, atol=0.1)


def test_steps_train_the_layers_they_name(benchmark: Any) -> None:
    module = benchmark("gpu_detector")
    case = module.StepCase("tiny", torch.float32, backbone="resnet18", size=(64, 96), regions=8)
    steps = case.contenders("cpu")
    assert list(steps) == ["plain", "modulated"]
    for run in steps.values():
        first, second = run(), run()
        assert first.isfinite()
        assert torch.equal(first, second), "each step does the same work"


def test_the_detector_has_thirteen_layers(benchmark: Any) -> None:
    model = benchmark("gpu_detector").detector("resnet50", "c3-c5", (64, 96), 8)
    layers = [m for m in model.modules() if isinstance(m, DeformConv2d)]
    assert len(layers) == 13
    for layer in layers:
        offsets, masks = layer.conv_offset.bias[:18], layer.conv_offset.bias[18:]
        assert 0.5 < offsets.std() < 1.6
        assert not masks.any()


def test_a_peer_that_cannot_run_is_written_down(benchmark: Any) -> None:
    timing = benchmark("gpu_timing")

    def breaks() -> None:
        raise RuntimeError("no such kernel\nand a trace")

    def tried(run: Any) -> Any:
        run()
        return run

    ready, failed = timing.prepared({"torchvision float16": breaks, "pliant": lambda: 3}, tried)
    assert list(ready) == ["pliant"]
    assert failed == {"torchvision float16": "no such kernel"}
    with pytest.raises(RuntimeError, match="no such kernel"):
        timing.prepared({"pliant": breaks}, tried)


def test_ratios_are_to_the_baseline(benchmark: Any, capsys: pytest.CaptureFixture[str]) -> None:
    gpu = benchmark("gpu")
    times = {"cuDNN conv2d": 0.05, "pliant": 0.075}
    row = gpu.report(gpu.CONVOLUTIONS[0], "forward", times, {"deformops": "not for this"})
    assert row["ratio"] == {"cuDNN conv2d": 1, "pliant": 1.5}
    assert row["us"] == {"cuDNN conv2d": 50, "pliant": 75}
    assert row["failed"] == {"deformops": "not for this"}
    assert "75.0 us     1.50 x" in capsys.readouterr().out


def test_all_that_is_asked_for_is_there(benchmark: Any) -> None:
    gpu = benchmark("gpu")
    names = {case.name for case in gpu.chosen(["S1", "S2", "S3", "S4", "D1", "D2", "R7", "R14", "STEP"])}
    assert len(names) == 9
    assert [str(case) for case in gpu.chosen(["S3", "R7"])] == [
        "S3 (2, 128, 160, 160) -> 128, zero offsets",
        "S3 (2, 128, 160, 160) -> 128, smooth offsets",
        "S3 (2, 128, 160, 160) -> 128, independent offsets",
        "R7 1024 boxes 7x7 sampling 2 of (256,50,84)",
    ]
    assert len({str(case) for case in gpu.chosen(["STEP"])}) == 2
    assert all(dataclasses.is_dataclass(case) for case in gpu.chosen(["D1"]))


def test_without_a_gpu_nothing_is_written(
    benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gpu, out = benchmark("gpu"), tmp_path / "gpu.json"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for arguments, status, text in (
        (["--out", str(out)], 2, "PyTorch sees no GPU here; nothing was timed or written"),
        (["--rounds", "0"], 2, "--rounds must be 1 or more"),
        (["--only", "S9"], 2, "invalid choice: 'S9'"),
    ):
        monkeypatch.setattr(sys, "argv", ["benchmarks.gpu", *arguments])
        with pytest.raises(SystemExit) as caught:
            gpu.main()
        assert caught.value.code == status
        assert text in capsys.readouterr().err
    assert not out.exists()
