"""Where the visits of a round train, and how their results come together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from fedtt_lightning.federation import AdapterState, RoundPlan, Visit


@dataclass(frozen=True)
class VisitResult:
    """What a visit leaves behind.

    Attributes:
        update: new minus start of the tensors that travel, float64 buffers; None if only the sum
            over the visits is known, which is in the aggregation already.
        loss: mean loss of its batches, None if no step returned one.
        private: the client's private tensors, None if it has none.
        seconds: what it took, from the client's first batch to its last; 0 if not measured.
        extra: what callbacks' `client_extra` returned: float64 tensors in the shapes of what
            travels, by its names; of a round's visits all have them, or none.
    """

    visit: Visit
    update: AdapterState | None
    loss: float | None = None
    private: AdapterState | None = None
    seconds: float = 0.0
    extra: dict[str, Tensor] = field(default_factory=dict)


class Exchange(ABC):
    """Spreads the visits of a round over processes and brings their results together.

    Every process runs the same rounds. It trains its share of a round's visits, in which the hooks
    `on_client_start`, `on_client_trained` and `client_extra` are called; `gather` gives it the
    results of all, and for each of these, in the plan's order, it then does what a single process
    does at a visit's end. So all are replicas of one run, whose checkpoints lie between rounds.

    Attributes:
        aggregates: whether this process computes the new global adapter; if not, it comes from
            elsewhere, with the next round.
        received: whether updates have been through the codec of `federation.upload` already.
    """

    aggregates = True
    received = False

    @abstractmethod
    def share(self, trainer: Trainer, plan: RoundPlan) -> tuple[RoundPlan, RoundPlan]:
        """Return the plan of a round, and of its visits those that train here, from batch 0 on.

        The same for a round however often it is asked for; it may wait until the answer is known.
        """

    @abstractmethod
    def gather(
        self, trainer: Trainer, module: LightningModule, results: list[VisitResult]
    ) -> list[VisitResult]:
        """Return the results of the round's visits, in the plan's order, given those from here.

        Of visits that never end there is no result; the open round's `plan` then tells why.
        """

    def end_epoch(self, trainer: Trainer) -> None:  # noqa: B027 - most have nothing to agree on
        """Hear, after a round and its validation, what others have to say."""

    def close(self, trainer: Trainer) -> None:  # noqa: B027 - most have nothing to undo
        """Leave the trainer as it was."""
