# SPDX-License-Identifier: Apache-2.0
"""The wording of every error: argument, rule, what was got, what would work."""

from __future__ import annotations

import difflib
import functools
import importlib
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import ModuleType
from typing import NoReturn, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
LONGEST_VALUE = 80  # characters of a value in a message


class PliantError(ValueError):
    """A problem with what the user gave: data, a configuration, a checkpoint, a missing package.

    The command line prints its text on one line and exits with status 2. Names from files of strangers are often part
    of it: control characters in them are escaped, so that they cannot steer a terminal or add lines to a log.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(plain(" ".join(str(message).split())))


def plain(text: object) -> str:
    r"""Return `text` as one line that any terminal and file can show: characters that are not printable are escaped.

    Example:
        >>> print(plain("oak\x1b[2J\n\ud800"))
        oak\x1b[2J\n\ud800
    """
    return "".join(
        c if c.isprintable() or unicodedata.category(c) == "Zs" else c.encode("unicode_escape").decode("ascii")
        for c in str(text)
    )


def fail(argument: str, rule: str, got: object, fix: str, *, kind: type[Exception] = PliantError) -> NoReturn:
    """Raise `kind` with the four parts of a message about a value: `argument: rule; got X; fix`."""
    raise kind(f"{argument}: {rule}; got {got}; {fix}")


def fail_because(argument: str, rule: str, reason: str, fix: str, *, kind: type[Exception] = PliantError) -> NoReturn:
    """Raise `kind` where no value is wrong but a rule is broken: `argument: rule; reason; fix`."""
    raise kind(f"{argument}: {rule}; {reason}; {fix}")


def shown(value: object) -> str:
    """Return `value` as an error message shows it: arrays by their shape, and nothing longer than a line."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape:
        return f"a {type(value).__name__} of shape ({', '.join(map(str, shape))})"
    text = " ".join(repr(value).split())
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."


def hint_at_names(function: str, hints: Mapping[str, str]) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator that says for names of arguments in other libraries, `hints`, what would work here."""

    def decorate(wrapped: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(wrapped)
        def checked(*arguments: P.args, **named: P.kwargs) -> R:
            for name, value in named.items():
                if name in hints:
                    rule = f"{function} has no argument of this name"
                    fail(name, rule, f"{name}={shown(value)}", hints[name], kind=TypeError)
            return wrapped(*arguments, **named)

        return checked

    return decorate


def counted(number: int, noun: str) -> str:
    """Return `1 box`, `2 boxes`, `1 image`, `0 images`: a number with its noun, of regular plural."""
    if number == 1:
        return f"1 {noun}"
    if noun.endswith("y"):
        return f"{number} {noun[:-1]}ies"
    return f"{number} {noun}{'es' if noun.endswith(('s', 'x', 'ch')) else 's'}"


def in_columns(rows: Iterable[Sequence[str]], indent: str = "", between: str = "  ") -> list[str]:
    """Return a line for each row, its cells below one another, two blanks or `between` apart.

    Example:
        >>> in_columns([("conv1", "3x3"), ("downsample", "1x1")])
        ['conv1       3x3', 'downsample  1x1']
    """
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [indent + between.join(map(str.ljust, row, widths)).rstrip() for row in rows]


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
