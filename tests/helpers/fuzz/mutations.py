# SPDX-License-Identifier: Apache-2.0
"""Changes that make a hostile file of a good one: in its bytes, in its values, in its tags."""

from __future__ import annotations

import copy
import json
import random
import re
from typing import Any

VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 1.0, 0.5, 1e-9, -0.0, 255, 256, 2**31, 2**63 - 1, 2**63, -(2**64), 10**30, 10**400),
    *(float("nan"), float("inf"), -float("inf"), 1e308, 1e-320),
    *(
        "",
        " ",
        "0",
        "1",
        "nan",
        "\x00",
        "\x1b[2J",
        "\n",
        "\ud800",
        "\u202e",
        "树",
        "../x",
        "/etc/passwd",
        "C:x",
        "a" * 300,
    ),
    *([], {}, [[]], [None], [0, 0, 0, 0], [1, 2], [[1, 2]], [[0, 0, 9, 9, 9, 0]], {"id": 1}, {"size": [6, 8]}),
    *({"size": [6, 8], "counts": [48]}, {"size": [6, 8], "counts": "o"}, {"size": [10**9, 10**9], "counts": []}),
    *("(a+)+$", ".*.*.*.*.*b", "faster-rcnn", "c3-c5"),
)
BYTES = (b"", b"\x00", b"\xff" * 8, b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\x80\x00", b"\xef\xbb\xbf", b"\xff\xfe")
TEXTS = (
    *(
        "",
        " ",
        "-1",
        "0",
        "1e400",
        "nan",
        "inf",
        "9" * 500,
        "1e-9",
        "0.5",
        "\u202e\u0645",
        "../../x",
        "树",
        "&#0;",
        "&x;",
    ),
    *("<![CDATA[x]]>", "<a>" * 150, "<object/>" * 3, "<!DOCTYPE a [<!ENTITY x 'y'>]>", "<?xml version='1.0'?>"),
)


def mutated(content: bytes, kind: str, chance: random.Random) -> bytes:
    """Return `content` of `kind` (json, xml or bytes) with one to four changes."""
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        if kind == "json" and chance.random() < 0.8:
            content = _in_values(content, chance)
        elif kind == "xml" and chance.random() < 0.7:
            content = _in_tags(content, chance)
        else:
            content = _in_bytes(content, chance)
    return content


def _in_bytes(content: bytes, chance: random.Random) -> bytes:
    place, length = chance.randrange(len(content) + 1), chance.choice((1, 2, 4, 16, 200))
    end = min(len(content), place + length)
    new = chance.choice(
        (
            b"",
            chance.choice(BYTES),
            bytes(chance.randrange(256) for _ in range(end - place)),
            bytes(byte ^ (1 << chance.randrange(8)) for byte in content[place:end]),
            content[place:end] * chance.choice((2, 3, 50)),
        )
    )
    return content[:place] if chance.random() < 0.1 else content[:place] + new + content[end:]


def _in_values(content: bytes, chance: random.Random) -> bytes:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return _in_bytes(content, chance)
    holders = [holder for holder in _holders(value) if holder]
    if not holders:
        return json.dumps(chance.choice(VALUES)).encode()
    holder = chance.choice(holders)
    key = chance.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    action = chance.random()
    if action < 0.15:
        del holder[key]
    elif action < 0.25 and isinstance(holder, list):
        holder.insert(key, copy.deepcopy(holder[key]))
    elif action < 0.3:
        return content.replace(b"[", b"[" * chance.choice((2, 2000)), 1)
    else:
        holder[key] = copy.deepcopy(chance.choice(VALUES))
    return json.dumps(value, ensure_ascii=chance.random() < 0.9).encode("utf-8", "surrogatepass")


def _holders(value: Any) -> list[Any]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return [] if inner is None else [value, *(holder for item in inner for holder in _holders(item))]


def _in_tags(content: bytes, chance: random.Random) -> bytes:
    text = content.decode("utf-8", "replace")
    spans = [match.span() for match in re.finditer(r">[^<]*<|<[^>]*>", text)] or [(0, len(text))]
    start, end = chance.choice(spans)
    if chance.random() < 0.6:
        start, end = start + 1, end - 1
    return (text[:start] + chance.choice(TEXTS) + text[end:]).encode("utf-8", "replace")
