# SPDX-License-Identifier: Apache-2.0
"""`pliant train`: one option for each field of `TrainConfig`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from pliant._check import PliantError, fail, require_package
from pliant.train import TrainConfig
from pliant.train.config import GROUPS
from pliant.train.options import MODELS, Options

from .parser import Commands, Parser, add_command

STOPPED = 130
PACKAGES = ("torchvision", "accelerate", "rich", "safetensors", "faster_coco_eval")


def add(commands: Commands[Parser]) -> None:
    """Add the command."""
    parser = add_command(commands, "train", _run, "train a model, with deformable layers where asked")
    parser.add_argument("--out", metavar="RUN", type=Path, help="new folder for the run")
    parser.add_argument("--resume", metavar="RUN", type=Path, help="continue the run in this folder, with its settings")
    parser.add_argument("--config", metavar="FILE", type=Path, help="JSON file of settings; options override it")
    _add_settings(parser)


def _add_settings(parser: Parser) -> None:
    for group in GROUPS:
        add_options(parser, group)


def add_options(parser: Parser, group: type[Options]) -> None:
    """Add a group of options to `--help`; options that are not given are not in the parsed arguments."""
    hints = get_type_hints(group)
    only = f"for {', '.join(group.ONLY)} only" if group.ONLY else None
    section = parser.add_argument_group(group.TITLE, only)
    for spec in dataclasses.fields(group):
        default = "required" if spec.default is dataclasses.MISSING else f"default: {_text(spec.default)}"
        others = [f"{_text(k.defaults[spec.name])} for {name}" for name, k in MODELS.items() if spec.name in k.defaults]
        only = f"; {', '.join(spec.metadata['only'])} only" if spec.metadata["only"] else ""
        help = f"{spec.metadata['help']} ({'; '.join([default, *others])}{only})".replace("%", "%%")
        flag = "--" + spec.name.replace("_", "-")
        section.add_argument(
            flag, dest=spec.name, help=help, default=argparse.SUPPRESS, **_kind(hints[spec.name], spec.metadata)
        )


def _text(value: Any) -> str:
    if value is None:
        return "none"
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _kind(hint: Any, metadata: Any) -> dict[str, Any]:
    """The argparse options for a field of type `hint`."""
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    inner = next((arg for arg in get_args(hint) if get_origin(arg) is tuple), hint)
    if get_origin(inner) is tuple:
        return {"nargs": "+", "type": _parser_of(get_args(inner)[0]), "metavar": "N"}
    parse = next(arg for arg in (*get_args(hint), hint) if arg is not type(None))
    if metadata.get("choices"):
        return {"choices": metadata["choices"]}
    return {"type": _parser_of(parse), "metavar": {str: "TEXT", int: "N", float: "X"}[parse]}


def _parser_of(kind: type) -> Any:
    def parse(text: str) -> Any:
        if text == "none":
            return None
        return kind(text)

    parse.__name__ = {str: "text", int: "integer", float: "number"}[kind]  # argparse names it in its errors
    return parse


def _run(arguments: argparse.Namespace) -> int:
    for module in PACKAGES:
        require_package(module, "train", "pliant train")
    from pliant.train.run import resume, train

    given = {f.name: getattr(arguments, f.name) for f in dataclasses.fields(TrainConfig) if hasattr(arguments, f.name)}
    if arguments.resume is not None:
        if given or arguments.out or arguments.config:
            fix = "give --resume alone; the settings are the run's"
            fail("resume", "must come without other options", " ".join(sys.argv[1:]), fix, kind=PliantError)
        return 0 if resume(arguments.resume) else STOPPED
    if arguments.out is None:
        fail("out", "must name the folder of the run", "nothing", "add --out RUN", kind=PliantError)
    base = TrainConfig.read(arguments.config) if arguments.config is not None else {}
    return 0 if train(TrainConfig.from_dict({**base, **given}), arguments.out) else STOPPED
