# SPDX-License-Identifier: Apache-2.0
"""Times a converted ResNet-50 in pliant, ONNX Runtime and OpenVINO, beside the plain one.

Run it by `python -m benchmarks.runtimes`.

All take turns in one run on one float32 image of 224x224, with offsets of a pixel's spread in 13 modulated layers, and
the least time of the rounds counts. Before anything is timed, every output is compared with that of the same model in
eager mode. A ratio is the time of the deformable network over that of the plain one in the same runtime.
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import openvino
import torch
import torchvision
from torch import Tensor, nn

import pliant
from benchmarks.networks import spread_offsets
from benchmarks.run import file_name, machine, time_in_turns
from pliant.export import export_onnx

Forward = Callable[[], object]
SIDE = 224
ROWS = ("eager", "eager channels_last", "compiled", "compiled, frozen", "onnxruntime", "openvino")


def networks() -> dict[str, nn.Module]:
    """Return the plain network and the converted one, its normalizations folded where a deformable layer is before."""
    torch.manual_seed(0)
    plain = torchvision.models.resnet50(weights=None).eval()
    deformable = pliant.convert(copy.deepcopy(plain), "c3-c5")
    spread_offsets(deformable, lambda: deformable(image()), torch.Generator().manual_seed(1))
    return {"plain": plain, "deformable": pliant.fuse(deformable)}


def image() -> Tensor:
    """Return the image, (1, 3, 224, 224)."""
    return torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))


def forwards(model: nn.Module) -> dict[str, Forward]:
    """Return what runs the network, by the names of `ROWS`."""
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x_last = image().contiguous(memory_format=torch.channels_last)
    return {
        "eager": _torch(model, image()),
        "eager channels_last": _torch(last, x_last),
        "compiled": _torch(torch.compile(copy.deepcopy(last)), x_last),
        "compiled, frozen": _frozen(copy.deepcopy(last), x_last),
        "onnxruntime": _onnxruntime(model),
        "openvino": _openvino(model),
    }


def _torch(model: Callable[[Tensor], Tensor], x: Tensor) -> Forward:
    def forward() -> object:
        with torch.no_grad():
            return model(x)

    return forward


def _frozen(model: nn.Module, x: Tensor) -> Forward:
    """The compiler's mode for inference alone, which folds constants into the weights."""
    forward = _torch(torch.compile(model, options={"freezing": True}), x)
    forward()  # while no other compilation runs
    return forward


def _onnxruntime(model: nn.Module) -> Forward:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.onnx"
        export_onnx(model, (image(),), path, input_names=["x"], output_names=["y"])
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    x = image().numpy()
    return lambda: session.run(None, {"x": x})[0]


def _openvino(model: nn.Module) -> Forward:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing, which is deprecated
        converted = openvino.convert_model(model, example_input=image())
    settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.compile_model(converted, "CPU", settings).create_infer_request()
    x = image().numpy()
    return lambda: request.infer([x], share_inputs=True)[0]


def check(runs: dict[str, Forward]) -> float:
    """Return the largest difference from the first, as a share of its largest value; fail above 1 in 1000."""
    first, *others = (np.asarray(run()) for run in runs.values())
    worst = max(float(np.abs(other - first).max() / np.abs(first).max()) for other in others)
    if not worst < 1e-3:
        raise SystemExit(f"the outputs differ by {worst:.2g}")
    return worst


def table(times: dict[str, float]) -> str:
    """Return the times as the page shows them."""
    lines = ["| | plain | deformable | ratio |", "|---|---|---|---|"]
    for row in ROWS:
        plain, deformable = times[f"plain {row}"], times[f"deformable {row}"]
        lines.append(f"| {row} | {plain:.0f} ms | {deformable:.0f} ms | {deformable / plain:.2f} |")
    return "\n".join(lines)


def main() -> None:
    """Time all and write the result beside the machine it holds for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="timed rounds, the least of which counts (default 15)")
    parser.add_argument("--threads", type=int, default=2, help="of every runtime (default 2)")
    parser.add_argument(
        "--out", type=Path, help="where the result goes (default benchmarks/results/runtimes-MACHINE.json)"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    runs, worst = {}, {}
    for kind, model in networks().items():
        found = forwards(model)
        worst[kind] = check(found)
        runs.update({f"{kind} {row}": run for row, run in found.items()})
    times = time_in_turns(runs, arguments.rounds)
    out: Path = arguments.out or Path("benchmarks/results") / f"runtimes-{file_name(machine())}"
    result = {"machine": machine(), "rounds": arguments.rounds, "largest difference": worst, "ms": times}
    out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(times))
    print(f"outputs differ by at most {max(worst.values()):.1g} of the largest; written to {out}")


if __name__ == "__main__":
    main()
