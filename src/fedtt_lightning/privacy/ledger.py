"""One privacy account for each client, as long as the federation lives."""

from __future__ import annotations

from typing import Any

from fedtt_lightning.privacy.accounting import Accountant, History, epsilon_of


class PrivacyLedger:
    """Counts every client's noisy steps and tells what they have cost it.

    Args:
        delta: the δ at which ε is told.
        accountant: how steps compose; see `epsilon_of`.
    """

    def __init__(self, delta: float, accountant: Accountant) -> None:
        self.delta = delta
        self.accountant: Accountant = accountant
        self._spent: dict[int, list[tuple[float, float, int]]] = {}

    def add(self, client: int, noise: float, rate: float, steps: int = 1) -> None:
        """Charge a client with steps of a noise multiplier and a sampling rate."""
        history = self._spent.setdefault(client, [])
        if history and history[-1][:2] == (noise, rate):
            history[-1] = (noise, rate, history[-1][2] + steps)
        else:
            history.append((noise, rate, steps))

    def history(self, client: int) -> History:
        """Return (noise multiplier, sampling rate, steps) of what a client has spent, in order."""
        return tuple(self._spent.get(client, ()))

    def epsilon(self, client: int) -> float:
        """Return what a client has spent; 0 if nothing."""
        return epsilon_of(self.history(client), self.delta, self.accountant)

    def largest(self) -> float:
        """Return what the client that spent most has spent."""
        return max(map(self.epsilon, self._spent), default=0.0)

    def mean(self) -> float:
        """Return what clients that have spent anything have spent on average."""
        return sum(map(self.epsilon, self._spent)) / max(len(self._spent), 1)

    def state_dict(self) -> dict[str, Any]:
        """Return every account as plain numbers."""
        return {"spent": {client: list(map(list, h)) for client, h in self._spent.items()}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._spent = {
            int(client): [(float(noise), float(rate), int(steps)) for noise, rate, steps in rows]
            for client, rows in state["spent"].items()
        }
