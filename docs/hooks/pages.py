"""Pages made when MkDocs builds: from docstrings, what commands say, and the examples."""

from __future__ import annotations

import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))  # MkDocs loads a hook as a lone file

from commands import commands_page
from examples import examples_page
from reference import reference_pages


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages to those in docs/."""
    reference = {**reference_pages(), "commands": commands_page()}
    pages = {f"reference/{name}.md": text for name, text in reference.items()}
    for path, text in {**pages, "examples.md": examples_page()}.items():
        files.append(File.generated(config, path, content=text))
    return files
