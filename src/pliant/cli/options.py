# SPDX-License-Identifier: Apache-2.0
"""The options of `TrainConfig` as arguments of commands: one for each field of a group."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pliant.cli.parser import Parser
from pliant.train.config import ONLY
from pliant.train.options import MODELS, Options, applies, models_with, required_type


def add_options(parser: Parser, group: type[Options], model: str | None = None) -> None:
    """Add a group of options under its own heading; those that are not given are not in the parsed arguments.

    With a `model`, only what is for it is added, and its defaults are given.
    """
    hints = get_type_hints(group)
    only = f"For {', '.join(models_with(group.ONLY))} only." if group.ONLY and model is None else None
    section = parser.add_argument_group(group.TITLE, only)
    for spec in dataclasses.fields(group):
        if model is not None and not applies(ONLY[spec.name], model):
            continue
        flag = "--" + spec.name.replace("_", "-")
        kind = _kind(hints[spec.name])
        section.add_argument(flag, dest=spec.name, help=_help(spec, model), default=argparse.SUPPRESS, **kind)


def given_options(arguments: argparse.Namespace, *groups: type[Options]) -> dict[str, Any]:
    """Return the options of `groups` that were given."""
    names = [spec.name for group in groups for spec in dataclasses.fields(group)]
    return {name: getattr(arguments, name) for name in names if hasattr(arguments, name)}


def _help(spec: dataclasses.Field[Any], model: str | None) -> str:
    """The line of help: what the option is, its default, and without a model those of others and what it is for."""
    own = MODELS[model].defaults.get(spec.name, spec.default) if model is not None else spec.default
    help = spec.metadata["help"]
    notes = ["required" if own is dataclasses.MISSING else f"default: {_text(own)}"]
    if own is None and "default" in help:
        notes = []  # the help says what none stands for
    if model is None:
        notes += [f"{_text(k.defaults[spec.name])} for {name}" for name, k in MODELS.items() if spec.name in k.defaults]
        notes += [f"{', '.join(models_with(ONLY[spec.name]))} only"] if spec.metadata["only"] else []
    # argparse formats its help with %.
    return (f"{help} ({'; '.join(notes)})" if notes else help).replace("%", "%%")


def _text(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return " ".join(map(_text, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _kind(hint: Any) -> dict[str, Any]:
    """The argparse options for a field of type `hint`."""
    inner = required_type(hint)
    if inner is bool:
        return {"action": argparse.BooleanOptionalAction}
    if get_origin(inner) is Literal:
        return {"choices": get_args(inner)}
    if get_origin(inner) is tuple:
        return {"nargs": "+", "type": _parser_of(get_args(inner)[0]), "metavar": "N"}
    return {"type": _parser_of(inner), "metavar": {str: "TEXT", int: "N", float: "X"}[inner]}


def _parser_of(kind: type) -> Any:
    def parse(text: str) -> Any:
        if text == "none":
            return None
        return kind(text)

    parse.__name__ = {str: "text", int: "integer", float: "number"}[kind]  # argparse names it in its errors
    return parse
