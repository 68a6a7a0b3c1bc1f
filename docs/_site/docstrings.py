# SPDX-License-Identifier: Apache-2.0
"""Brings docstrings into the form that the site's builder reads.

Formulas, which are in reStructuredText, become MathML, which every browser draws by itself; and `Example:`, which the
builder would take for text, becomes its section of code.
"""

from __future__ import annotations

import re
from typing import Any

import griffe
from latex2mathml.converter import convert

BLOCK = re.compile(r"^ *\.\. math::(?P<tex>.*(?:\n[ \t]+\S.*)*)", re.MULTILINE)
EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)
INLINE = re.compile(r":math:`(?P<tex>[^`]+)`")


def for_the_site(text: str) -> str:
    """Return a docstring with each formula in MathML and its example in a section of code."""

    def block(found: re.Match[str]) -> str:
        return "\n" + convert(" ".join(found["tex"].split()), display="block") + "\n"

    text = INLINE.sub(lambda found: convert(found["tex"]), BLOCK.sub(block, text))
    return EXAMPLE.sub("Examples:", text)


class Docstrings(griffe.Extension):
    """Rewrites every docstring that is read."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = for_the_site(obj.docstring.value)
