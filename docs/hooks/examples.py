"""The page on examples, from `examples/`: its table, the project before and after, the programs."""

from __future__ import annotations

import re
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "examples"


def examples_page() -> str:
    """Return the page; links between the examples become links to its sections."""
    project = (FOLDER / "existing_project/README.md").read_text(encoding="utf-8")
    parts = [(FOLDER / "README.md").read_text(encoding="utf-8"), project.replace("# ", "## ", 1)]
    for name in ("vision_digits.py", "custom_aggregator.py"):
        source = (FOLDER / name).read_text(encoding="utf-8")
        parts.append(f"## {name}\n\n```python\n{source}```\n")
    text = "\n".join(parts).replace(
        "(existing_project/README.md)", "(#an-existing-project-federated)"
    )
    text = re.sub(r"\((?:\.\./)?(\w+)\.py\)", r"(#\1py)", text)
    return re.sub(r"\[([\w.]+)\]\((?!#)[\w.]+\)", r"\1", text)  # files that have no section
