# SPDX-License-Identifier: Apache-2.0
"""The version, in one place: the build reads it from here, and `pliant.__version__` is it."""

from __future__ import annotations

__version__ = "0.1.0"
