# SPDX-License-Identifier: Apache-2.0
"""What the site's builder changes in a page: a link out of docs/ leads nowhere there, so it becomes the file's name."""

from __future__ import annotations

import re
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(?P<path>[^)\s]+)\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return the page with links to files outside docs/ as text."""
    return OUTSIDE.sub(lambda link: f"{link[1]} (`{link['path']}` in the repository)", markdown)
