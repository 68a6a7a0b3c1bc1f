# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations
def load() -> None:
    return None
def why_not() -> str:
    return "not built"
