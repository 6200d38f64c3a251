"""What the trainer's progress bar shows of a federation."""

from __future__ import annotations

from collections.abc import Callable

from lightning.pytorch import Trainer

from fedtt_lightning.callbacks.communication import Communication
from fedtt_lightning.federation import FederatedLoop
from fedtt_lightning.wording import human_bytes


def show_on_bar(trainer: Trainer, items: Callable[[], dict[str, str]]) -> None:
    """Let the progress bar, if there is one, show `items()` after its own, whatever its class.

    `get_metrics` is what Lightning lets a bar be changed by; numbers that are logged with
    `prog_bar=True` could not be shown as KiB.
    """
    bar = trainer.progress_bar_callback
    if bar is not None:
        own = type(bar).get_metrics
        bar.get_metrics = lambda *given: own(bar, *given) | items()  # type: ignore[method-assign]


def clear_bar(trainer: Trainer) -> None:
    """Let the progress bar show its own items alone, as another trainer may use it next."""
    if (bar := trainer.progress_bar_callback) is not None:
        vars(bar).pop("get_metrics", None)


def bar_items(loop: FederatedLoop, comm: Communication) -> dict[str, str]:
    """Return the round (from 1), who trains in it, and the bytes that clients have sent so far."""
    items = {"round": str(loop.round + 1)}
    if loop.is_open and loop.local is not None and loop.position:
        visits = loop.local.group(loop.position - 1)
        who = str(visits[0].client) if len(visits) == 1 else f"{len(visits)} side by side"
        done = loop.local.visits.index(visits[-1]) + 1
        items["client"] = f"{who} ({done}/{len(loop.local.visits)})"
    return items | {"up": human_bytes(comm.uploaded_total)}
