# SPDX-License-Identifier: Apache-2.0
"""`python -m pliant`: which implementations of the operators run here; with arguments, the command line."""

from __future__ import annotations

import sys

from pliant_command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["env"]))
