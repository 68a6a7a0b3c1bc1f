# SPDX-License-Identifier: Apache-2.0
"""`pliant convert-checkpoint`: another library's weights as a run folder of pliant's."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pliant._check import fail, require_package
from pliant.cli.parser import Commands, Parser, add_command

if TYPE_CHECKING:
    from pliant.checkpoints import Conversion
    from pliant.data import Category

REPORT_FILE = "conversion.json"
SOURCES = ("auto", "mmdetection", "mmdetection-caffe", "detectron2", "torchvision", "dcnv2", "mxnet")


def add(commands: Commands[Parser]) -> None:
    """Add the command."""
    help = "turn a checkpoint of mmdetection, detectron2, torchvision, DCNv2 or MXNet into pliant's"
    parser = add_command(commands, "convert-checkpoint", _run, help)
    help = ".pth, .pt, .safetensors, or MXNet's .params; nothing in it is run"
    parser.add_argument("checkpoint", metavar="FILE", type=Path, help=help)
    help = (
        "new folder with weights.safetensors, conversion.json and, for a whole system, all that eval and predict need"
    )
    parser.add_argument("--out", metavar="RUN", type=Path, required=True, help=help)
    help = "where it comes from; auto (default) tells by the names of its tensors"
    parser.add_argument("--from", dest="source", choices=SOURCES, default="auto", help=help)
    help = "make these convolutions of a plain checkpoint deformable: c3-c5, c5, last3, or a regular expression"
    parser.add_argument("--deform", metavar="WHERE", help=help)
    help = "an option of `pliant train` that the file does not tell, e.g. max_size=1000; repeatable"
    parser.add_argument("--set", dest="settings", metavar="NAME=VALUE", action="append", default=[], help=help)
    help = "file with a category's name in each line, in the order of the labels; default: COCO's, VOC's, Cityscapes'"
    parser.add_argument("--categories", metavar="FILE", type=Path, help=help)
    parser.add_argument("--quiet", action="store_true", help="print the summary alone, not a line for each tensor")


def _run(arguments: argparse.Namespace) -> int:
    for module in ("torchvision", "safetensors"):
        require_package(module, "train", "pliant convert-checkpoint")
    from pliant.checkpoints import convert_checkpoint
    from pliant.train.files import write_json

    if arguments.out.exists() and (not arguments.out.is_dir() or any(arguments.out.iterdir())):
        fail("out", "must be a new or an empty folder", str(arguments.out), "choose another")
    changed = dict(_setting(text) for text in arguments.settings)
    if arguments.deform is not None:
        changed["deform"] = arguments.deform
    conversion = convert_checkpoint(arguments.checkpoint, arguments.source)
    if conversion.settings:
        conversion = _write_run(conversion, arguments, changed)
    else:
        _write_layers(conversion, arguments, changed)
    write_json(arguments.out / REPORT_FILE, conversion.as_dict())
    print(conversion.summary() if arguments.quiet else conversion.table())
    return 0


def _write_run(conversion: Conversion, arguments: argparse.Namespace, changed: dict[str, Any]) -> Conversion:
    """Build the model that the checkpoint is of, check that the tensors fit, and write the run folder."""
    from pliant.checkpoints import fit
    from pliant.train import TrainConfig
    from pliant.train.model import build_model, save_run

    config = TrainConfig.from_dict(
        {"data": f"converted from {arguments.checkpoint.name}", **conversion.settings, **changed}
    )
    categories = _categories(conversion, arguments.categories)
    model = build_model(config, len(categories), pretrained=False)
    conversion = fit(conversion, model, new_branches="deform" in changed)
    state = {name: tensor for name, tensor in model.state_dict().items() if name.endswith("num_batches_tracked")}
    model.load_state_dict({**state, **conversion.tensors})
    save_run(arguments.out, model, categories, config)
    return conversion


def _write_layers(conversion: Conversion, arguments: argparse.Namespace, changed: dict[str, Any]) -> None:
    """Write the renamed tensors of a network that is not pliant's."""
    from safetensors.torch import save_file

    from pliant.train.files import write_atomically

    if changed or arguments.categories:
        fix = "leave out --set, --deform and --categories"
        rule = "must be of a system of pliant's"
        fail("checkpoint", rule, f"layers of a {conversion.source} network", fix)
    arguments.out.mkdir(parents=True, exist_ok=True)
    write_atomically(arguments.out / "weights.safetensors", lambda path: save_file(conversion.tensors, path))


def _categories(conversion: Conversion, file: Path | None) -> Sequence[Category]:
    from pliant._files import is_text
    from pliant.data import Category, published_categories
    from pliant.data.files import lines_of

    found = published_categories(conversion.labels, background=conversion.background)
    if file is None:
        return found
    names = [name for name in lines_of(file) if name]
    if not all(map(is_text, names)):
        fail("categories", "must be a text file in UTF-8", str(file), "save it as such")
    if len(names) != len(found) or len(set(names)) != len(names):
        got = f"{len(set(names))} in {file}"
        fail("categories", f"must be {len(found)} different names", got, "write one in each line")
    return [Category(number, name) for number, name in enumerate(names, 0 if conversion.background else 1)]


def _setting(text: str) -> tuple[str, Any]:
    """Parse NAME=VALUE; a value that is not JSON is text."""
    name, equals, value = text.partition("=")
    if not equals:
        fail("set", "must be NAME=VALUE", repr(text), "write e.g. --set max_size=1000")
    name = name.strip().lstrip("-").replace("-", "_")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value
