"""A toy run in which the first, the last and two middle rounds have too few clients."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer

from fedtt_lightning.federation import TraceSampler

AVAILABLE = {2: [0, 1, 3], 3: [1], 5: [0, 2, 3], 6: [1, 2], 7: [0, 1, 2, 3], 8: [2]}
ROUNDS = 8
SKIPPED = {1, 3, 4, 8}


def skipping(folder: Path, **federation: Any) -> dict[str, Any]:
    """Return the options of `make_run`; writes the trace into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    trace = folder / "trace.csv"
    rows = [f"{client},{round}" for round, clients in AVAILABLE.items() for client in clients]
    trace.write_text("\n".join(["client,round", *rows]))
    settings = {"sampler": TraceSampler(str(trace)), "min_clients": 2, "local_epochs": 1}
    return {"federation": {**settings, **federation}, "max_epochs": ROUNDS}


class AtHook(Callback):
    """Does something in a hook of one or every round (from 1)."""

    def __init__(
        self, hook: str, action: Callable[[Trainer], None], round: int | None = None
    ) -> None:
        def call(trainer: Trainer, *_: Any) -> None:
            if not trainer.sanity_checking and round in (None, trainer.current_epoch + 1):
                action(trainer)

        setattr(self, hook, call)
