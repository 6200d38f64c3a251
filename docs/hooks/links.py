"""Links that pages get: from names of classes to the reference, and none to what a site has not."""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # MkDocs loads a hook as a lone file

from reference import PACKAGES, public

# Files outside docs/, which a code host shows.
_FOLDERS = "benchmarks|callbacks|configs|examples|tests"
_OUTSIDE = re.compile(rf"\[([^\]]+)\]\((?:\.\./)+(?:{_FOLDERS})/[^)]+\)")
_NAME = re.compile(r"(?<!\[)`(\w+)(?:\([\w, ]*\))?`(?!\])")
_NO_PROSE = re.compile(r"#|    |:::")  # headings, code, what mkdocstrings reads


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Leave the words of links to files outside docs/, and link class names in backticks."""
    lines, fenced = [], False
    for line in _OUTSIDE.sub(r"\1", markdown).split("\n"):
        fenced ^= line.startswith("```")
        if not fenced and not _NO_PROSE.match(line):
            line = _NAME.sub(_linked, line)
        lines.append(line)
    return "\n".join(lines)


def _linked(found: re.Match[str]) -> str:
    path = _classes().get(found[1])
    return found[0] if path is None else f"[{found[0]}][{path}]"


@cache
def _classes() -> dict[str, str]:
    """Return the paths of the public classes by name."""
    return {
        name: f"fedtt_lightning.{package}.{name}"
        for package in PACKAGES
        for name, found in public(package)
        if found.is_class
    }
