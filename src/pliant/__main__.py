# SPDX-License-Identifier: Apache-2.0
"""`python -m pliant`: what serves each operator here; with arguments, the command line."""

from __future__ import annotations

import sys

from pliant.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["env"]))
