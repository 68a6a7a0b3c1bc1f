# SPDX-License-Identifier: Apache-2.0
"""The wording of every error: argument, rule, what was got, what would work."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType
from typing import NoReturn


class PliantError(ValueError):
    """A problem with what the user gave: data, a configuration, a checkpoint, a missing package.

    The command line prints its text on one line and exits with status 2.
    """


def fail(argument: str, rule: str, got: object, fix: str, *, kind: type[Exception] = PliantError) -> NoReturn:
    """Raise `kind` with the four parts of a message about a value: `argument: rule; got X; fix`."""
    raise kind(f"{argument}: {rule}; got {got}; {fix}")


def fail_because(argument: str, rule: str, reason: str, fix: str, *, kind: type[Exception] = PliantError) -> NoReturn:
    """Raise `kind` where no value is wrong but a rule is broken: `argument: rule; reason; fix`."""
    raise kind(f"{argument}: {rule}; {reason}; {fix}")


def suggest(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the names of `known` near to `name`, or an empty string."""
    near = difflib.get_close_matches(name, list(known), n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""


def require_package(module: str, extra: str, purpose: str) -> ModuleType:
    """Import `module`, or raise a `PliantError` that names the extra which brings it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PliantError(
            f'{purpose} needs the package {module.partition(".")[0]!r}; got {error}; pip install "pliant[{extra}]"'
        ) from error
