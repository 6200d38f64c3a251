"""A rule of your own: the geometric median of updates, and what it does about a false client."""

import torch
from lightning.pytorch import Callback, Trainer, seed_everything

from fedtt_lightning.federation import AggregationRule, AllUpdates, WeightedMean


class GeometricMedian(AllUpdates):
    """The point with the least sum of distances to all updates; bears fewer than half false ones.

    Pillutla et al., arXiv 1912.13445: Weiszfeld's steps, with distances of at least `smoothing`.
    """

    def __init__(self, steps: int = 100, smoothing: float = 1e-6) -> None:
        super().__init__()
        self.steps = steps
        self.smoothing = smoothing

    def combine(self, updates: torch.Tensor) -> torch.Tensor:
        """Return one update, (values,), for those of the clients, (clients, values)."""
        median = updates.mean(dim=0)
        for _ in range(self.steps):
            distances = (updates - median).norm(dim=1).clamp_min(self.smoothing)
            median = (updates / distances[:, None]).sum(dim=0) / (1 / distances).sum()
        return median

    def problem(self, clients: int) -> str | None:
        """Tell why so many updates are too few: then the round is skipped, or the run refused."""
        return None if clients >= 3 else f"of {clients} updates any may be false, 3 are needed"


class FalseClient(Callback):
    """Client 0 sends ten times the opposite of what it has learned."""

    def on_client_update(self, trainer, module, visit, update):  # a hook of the federation
        for buffer in update.buffers.values():
            buffer *= -10 if visit.client == 0 else 1


def fit(rule: AggregationRule, rounds: int = 10) -> float:
    """Return the accuracy of the existing project's network when one client of five is false."""
    from existing_project.before import Digits, Reader

    from fedtt_lightning import FederatedDataModule, FederatedRounds

    seed_everything(0, verbose=False)
    data = FederatedDataModule(Digits(), clients=5)
    callbacks = [FederatedRounds(aggregation=rule), FalseClient()]
    quiet = {"logger": False, "enable_checkpointing": False}
    trainer = Trainer(max_epochs=rounds, accelerator="cpu", callbacks=callbacks, **quiet)
    trainer.fit(Reader(), datamodule=data)
    return float(trainer.callback_metrics["val_acc"])


if __name__ == "__main__":
    scores = {rule: fit(rule) for rule in (WeightedMean(), GeometricMedian())}
    print(*(f"{rule}: {score:.3f}" for rule, score in scores.items()), sep="\n")
