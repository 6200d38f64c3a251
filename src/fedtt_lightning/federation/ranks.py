"""The TT or LoRA rank of each client, where clients differ in capacity."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np


class ClientRanks(ABC):
    """Gives each client the rank at which it trains and communicates."""

    @abstractmethod
    def ranks(self, experiment: int, num_clients: int) -> np.ndarray:
        """Return the rank of each client, int64 (clients,), keyed by the experiment if drawn."""
