# SPDX-License-Identifier: Apache-2.0
"""The start of `python -m pliant`, imported first of all: Ctrl-C while PyTorch is loading is one line.

Python imports the package before it runs `__main__.py`. Meanwhile `sys.argv` begins with `-m`; a program that imports
pliant while it is found in this way itself, as `python -m other.program`, has another name behind it.
"""

from __future__ import annotations

import sys


def _is_program() -> bool:
    given = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]  # without the program's own arguments
    return sys.argv[:1] == ["-m"] and (given[-2:] == ["-m", "pliant"] or given[-1:] == ["-mpliant"])


if _is_program():
    from pliant_command import hush

    hush()
