"""How many clients train fastest side by side, found while they train."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_WORTH = 0.97  # of the time of half as many clients, or else there are enough
_OF_FREE_MEMORY = 0.5


class SizeSearch:
    """Tries 1, 2, 4, … clients, one number a round, as long as examples take less time.

    Outcomes of training do not depend on it, but for rounding. Nothing is tried whose activations,
    reckoned from those of one client, would not fit into half of the memory that was free then.

    Args:
        largest: clients of the largest round.
        device: where they train.

    Attributes:
        size: clients side by side in the coming round.
        found: whether it will stay.
        seconds: of an example, by number of clients.
    """

    def __init__(self, largest: int, device: torch.device) -> None:
        self.size, self.found = 1, largest == 1
        self.seconds: dict[int, float] = {}
        self._largest, self._device = largest, device
        self._steps: list[float] = []
        self._saved = 0

    @contextmanager
    def step(self, clients: int, examples: int) -> Iterator[None]:
        """Measure a step of so many clients, all of which have so many examples."""
        if self.found or clients != self.size:
            yield
            return
        start = self._now()
        if self.size == 1 and not self._steps:
            with _counting() as storages:
                yield
            self._saved = sum(storages.values())
        else:
            yield
        self._steps.append((self._now() - start) / examples)

    def end_round(self) -> None:
        """Choose the size of the coming round."""
        if self.found:
            return
        steps, self._steps = self._steps[1:] or self._steps, []  # the first one warms up
        if steps:
            self.seconds[self.size] = statistics.median(steps)
        elif not self.seconds:
            return  # nothing was trained
        if self.size == 1:
            self._largest = min(self._largest, self._fits())
        best = min(self.seconds, key=lambda size: self.seconds[size])
        half = self.seconds.get(self.size // 2, float("inf"))
        slower = not steps or self.seconds[self.size] > _WORTH * half
        if slower or 2 * self.size > self._largest:
            self.size, self.found = best, True
        else:
            self.size *= 2

    def state_dict(self) -> dict[str, Any]:
        return {
            "size": self.size,
            "found": self.found,
            "largest": self._largest,
            "seconds": dict(self.seconds),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.size, self.found = state["size"], state["found"]
        self._largest, self.seconds = state["largest"], dict(state["seconds"])

    def _now(self) -> float:
        if self._device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter()

    def _fits(self) -> int:
        """Return how many clients' activations fit into the memory that is free."""
        free = _free_memory(self._device)
        if free is None or not self._saved:
            return self._largest
        return max(1, int(_OF_FREE_MEMORY * free / self._saved))


@contextmanager
def _counting() -> Iterator[dict[int, int]]:
    """Collect the bytes of the memory that autograd keeps, by address."""
    storages: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        yield storages


def _free_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    info = Path("/proc/meminfo")
    if device.type != "cpu" or not info.is_file():
        return None
    lines = dict(line.split(":", 1) for line in info.read_text().splitlines())
    return 1024 * int(lines["MemAvailable"].split()[0])
