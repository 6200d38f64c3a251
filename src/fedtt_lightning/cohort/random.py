"""Dropout that each client draws with its own generator, as if it trained alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from fedtt_lightning.cohort.splitting import join, split
from fedtt_lightning.federation.seeds import seed_torch

_DROPOUT = (
    F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout,
)  # fmt: skip
_ATTENTION = F.scaled_dot_product_attention
_NAMES: dict[Any, tuple[str, ...]] = {
    **dict.fromkeys(_DROPOUT, ("input", "p", "training", "inplace")),
    torch.dropout: ("input", "p", "train"),
    _ATTENTION: ("query", "key", "value", "attn_mask", "dropout_p", "is_causal"),
}


class ClientRandom(TorchFunctionMode):
    """Divides dropout among clients while it is entered; `begin` says whose examples those are.

    Attributes:
        off: dropout is left out.
        used: something was dropped, or would have been.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.off = self.used = False
        self._device = device
        self._seeds: Sequence[int] = ()
        self._sizes: Sequence[int] = ()
        self._states: list[list[Tensor] | None] = []
        self._inside = False

    def begin(self, seeds: Sequence[int], sizes: Sequence[int]) -> None:
        """Begin a step of clients with these seeds and numbers of examples."""
        self._seeds, self._sizes = seeds, sizes
        self._states = [None] * len(seeds)

    @contextmanager
    def client(self, client: int) -> Iterator[None]:
        """Let everything be drawn by one client's generators."""
        outer, state = self._get(), self._states[client]
        if state is None:
            seed_torch(self._seeds[client])
        else:
            self._set(state)
        inside, self._inside = self._inside, True
        try:
            yield
        finally:
            self._inside = inside
            self._states[client] = self._get()
            self._set(outer)

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func not in _NAMES:
            return func(*args, **kwargs)
        kwargs |= zip(_NAMES[func], args, strict=False)
        return self._drop(func, kwargs)

    def _drop(self, func: Callable[..., Any], options: dict[str, Any]) -> Any:
        rate = options.get("dropout_p", 0.0) if func is _ATTENTION else options.get("p", 0.5)
        if rate == 0 or not options.get("training", options.get("train", True)):
            return func(**options)
        self.used = True
        if self.off:
            if func is _ATTENTION:
                return func(**{**options, "dropout_p": 0.0})
            return options["input"]
        if self._inside:
            return func(**options)
        if "inplace" in options:
            options["inplace"] = False
        parts, divided = split(options, self._sizes)
        results = []
        for client, part in enumerate(parts):
            with self.client(client):
                results.append(func(**part))
        return join(results, self._sizes, divided)

    def _get(self) -> list[Tensor]:
        states = [torch.get_rng_state()]
        if self._device.type != "cpu":
            states.append(torch.get_device_module(self._device).get_rng_state(self._device))
        return states

    def _set(self, states: Sequence[Tensor]) -> None:
        torch.set_rng_state(states[0])
        if self._device.type != "cpu":
            torch.get_device_module(self._device).set_rng_state(states[1], self._device)
