# SPDX-License-Identifier: Apache-2.0
"""Names of any script in pictures: fonts that have the characters, and escapes where no installed font has them."""

from __future__ import annotations

import functools

from pliant._check import plain

# After matplotlib's own font, whichever of these is installed: each has tens of thousands of characters.
_WIDE = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei"),
    *("Microsoft YaHei", "SimHei", "PingFang SC", "Hiragino Sans GB", "Arial Unicode MS", "Noto Sans Arabic"),
)


@functools.cache
def families() -> list[str]:
    """Return the families that texts in pictures are set in, in order: the first that has a character shows it."""
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in _WIDE if name in installed)]


@functools.cache
def _characters() -> frozenset[int]:
    from matplotlib.font_manager import FontProperties, findfont, get_font

    fonts = (get_font(findfont(FontProperties(family=family))) for family in families())
    return frozenset(code for font in fonts for code in font.get_charmap())


def legible(text: str) -> str:
    r"""Return `text` as a picture can show it: what no font has is escaped, and a dollar starts no formula.

    Example:
        >>> print(legible("oak\n$"), legible("\U000f0000"))
        oak\n\$ \U000f0000
    """
    known = _characters()
    shown = (c if ord(c) in known else c.encode("unicode_escape").decode("ascii") for c in plain(text))
    return "".join(shown).replace("$", r"\$")
