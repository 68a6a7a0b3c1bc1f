# SPDX-License-Identifier: Apache-2.0
"""The program `pliant`: the command line of the package, and Ctrl-C while that is still loading.

It stands beside the package, because importing anything of `pliant` imports PyTorch, which takes seconds.
"""

from __future__ import annotations

import sys

__all__ = ["main"]

INTERRUPTED = 130


def main() -> int:
    """Run the command line and return its exit status, which is 130 where Ctrl-C comes while it loads.

    Example:
        >>> callable(main)
        True
    """
    try:
        from pliant.cli import main as run
    except KeyboardInterrupt:
        sys.stderr.write("pliant: interrupted\n")
        return INTERRUPTED
    return run()
