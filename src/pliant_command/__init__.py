# SPDX-License-Identifier: Apache-2.0
"""The program `pliant`: the command line of the package, and Ctrl-C while that is still loading.

It stands beside the package, because importing anything of `pliant` imports PyTorch, which takes seconds.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType

__all__ = ["hush", "main"]

INTERRUPTED = 130


def hush() -> None:
    """Let Ctrl-C end the process with one line, until the command line is loaded and does that itself.

    The handler ends the process, since a `KeyboardInterrupt` would travel through whatever is being imported, and could
    be caught there. Where Ctrl-C is ignored or handled in another way, it stays so.

    Example:
        >>> callable(hush)
        True
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status, which is 130 where Ctrl-C comes while it loads.

    Example:
        >>> callable(main)
        True
    """
    hush()
    from pliant.cli import main as run

    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    return run(argv)


def _end(number: int, frame: FrameType | None) -> None:
    sys.stderr.write("pliant: interrupted\n")
    sys.stderr.flush()
    os._exit(INTERRUPTED)
