"""By what a run was made: its command and the versions of what it used."""

from __future__ import annotations

import platform
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import fedtt_lightning

_LIBRARIES = ("torch", "lightning", "peft", "transformers", "datasets", "opacus")


def run_origin() -> dict[str, Any]:
    """Return this process's `command`, as a shell takes it, and the `versions` by name."""
    python, *arguments = sys.orig_argv or [sys.executable]
    versions = {"fedtt-lightning": fedtt_lightning.__version__, "python": platform.python_version()}
    return {
        "command": shlex.join([Path(python).name, *arguments]),
        "versions": versions | {name: version(name) for name in _LIBRARIES},
    }
