"""The Flower app that a server submits and each silo expects: a name for two thin modules."""

from __future__ import annotations

from pathlib import Path

from fedtt_lightning import __version__

_PROJECT = """\
[project]
name = "fedtt-lightning-relay"
version = "{version}"
description = "Carries the messages of fedtt-lightning"
license = "Apache-2.0"
dependencies = ["flwr>=1.41,<1.42"]

[tool.flwr.app]
publisher = "fedtt-lightning"

[tool.flwr.app.components]
serverapp = "fedtt_lightning.silo.server_app:app"
clientapp = "fedtt_lightning.silo.client_app:app"
"""


def write_app(folder: Path) -> Path:
    """Write the app into `folder` and return it; the code is that of the installed package."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(_PROJECT.format(version=__version__), encoding="utf-8")
    return folder
