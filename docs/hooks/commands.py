"""The page on commands: what each of them prints with --help."""

from __future__ import annotations

import contextlib
import io
import os

from fedtt_lightning.__main__ import main

# `fit --help` names every key of Lightning's Trainer: the page on keys is the shorter way.
_OWN = ("account", "privacy", "study", "report", "export", "new-federation")
_LIKE_FIT = """
## fit, validate, test, predict

LightningCLI with the keys `federation` and `predictions`; [all keys](keys.md).

| | |
|---|---|
| `--config FILE` | a config file; may be given several times, and files add to each other |
| `--KEY VALUE` | any key of a config: `--trainer.max_epochs 5` |
| `--ckpt_path FILE` | a checkpoint to go on from or to evaluate; `last` is the newest |
| `--print_config` | shows what a run would use, and runs nothing |
| `--KEY.help CLASS` | the arguments of a class: `--federation.aggregation.help Krum` |

## serve, silo

They take all that `fit` takes, and [their own keys](keys.md#serve): [Silos](../silos.md).
"""


def commands_page() -> str:
    """Return the page as Markdown; nothing of it imports torch."""
    parts = ["# Commands\n", "```text", _printed([]), "```", _LIKE_FIT]
    for command in _OWN:
        parts += [f"\n## {command}\n", "```text", _printed([command]), "```"]
    return "\n".join(parts)


def _printed(command: list[str]) -> str:
    """Return what a command prints with --help, in lines of 88."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "88"
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
            main([*command, "--help"])
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    return out.getvalue().rstrip()
