"""A bar for work between the trainer's own bars, if it takes more than a second."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import RichProgressBar
from tqdm.auto import tqdm

_DELAY = 1.0


@contextmanager
def progress(trainer: Trainer, what: str, total: int) -> Iterator[Callable[[], object]]:
    """Give a function to call after each of `total` steps; a trainer without a bar shows none."""
    bar = trainer.progress_bar_callback
    if bar is None or not trainer.is_global_zero:
        yield lambda: None
    elif isinstance(bar, RichProgressBar) and bar.progress is not None:
        rich, start = bar.progress, monotonic()
        task = rich.add_task(what, total=total, visible=False)

        def advance() -> None:
            rich.update(task, advance=1, visible=monotonic() - start > _DELAY)
            bar.refresh()

        try:
            yield advance
        finally:
            rich.remove_task(task)
    else:
        with tqdm(total=total, desc=what, leave=False, delay=_DELAY, position=1) as line:
            yield line.update
