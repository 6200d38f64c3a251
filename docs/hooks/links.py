"""Links of pages to files outside docs/, which a code host shows and the site has not."""

from __future__ import annotations

import re
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+(?:benchmarks|callbacks|configs|tests)/[^)]+\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Leave the words of such a link, which name the file, and drop the rest."""
    return _OUTSIDE.sub(r"\1", markdown)
