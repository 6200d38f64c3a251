"""One loader for a whole round: the batches of all its visits, strung together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from fedtt_lightning.data.local_order import group_by_length
from fedtt_lightning.federation.plan import RoundPlan, Visit
from fedtt_lightning.federation.seeds import generator_for, seed_all

if TYPE_CHECKING:
    from fedtt_lightning.data.client_data import LoaderOptions
    from fedtt_lightning.data.partition import Partition
    from fedtt_lightning.federation.poisson import PoissonBatches


def batch_examples(visit: Visit, step: int, options: LoaderOptions, world_size: int = 1) -> int:
    """Return the examples of all processes in a visit's batch, shuffled passes assumed."""
    size = options.batch_size * world_size
    return min(size, visit.num_examples - step % visit.batches_per_epoch * size)


def batches_per_epoch(examples: int, options: LoaderOptions, world_size: int = 1) -> int:
    """Return the batches each process sees in one pass over a client's data."""
    batch = options.batch_size * world_size
    return examples // batch if options.drop_last else -(-examples // batch)


class RoundLoader:
    """Iterates the batches of a round's visits, from the plan's `start` on.

    It serves one round after another: set `plan`, and iterate. Workers start with the first batch
    and live until `close`; they read ahead over the ends of visits, so that a visit's first batches
    are there when it begins. They see the dataset as it was when they started. Without workers
    nothing is read ahead: reading seeds the global generators, which then belong to the training.

    A client's examples are shuffled anew in each local epoch with a generator keyed by (experiment,
    round, client, epoch), and Python's, NumPy's and torch's generators are seeded before a batch
    is read, so random augmentation is the same with any number of workers and after a resume.
    With several processes each takes its share of every batch of `batch_size * world_size`,
    whose examples repeat where it does not divide.

    A batch of visits side by side holds those of each, in the order of `in_step`, read one after
    another and collated together.

    With `poisson`, a batch holds whatever is drawn for it, shared out without repeats. A process
    for which nothing is drawn gets the client's first example as a stand-in, since models cannot
    take an empty batch; whoever trains must not let it count.

    Args:
        dataset: examples of all clients.
        clients: each client's indices into `dataset`.
        plan: the round's visits, and how many of their batches are already trained.
        options: batch size, collate function, workers.
        poisson: draws the batches, in place of shuffled passes.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        clients: Partition,
        plan: RoundPlan,
        options: LoaderOptions,
        rank: int = 0,
        world_size: int = 1,
        poisson: PoissonBatches | None = None,
    ) -> None:
        self.plan = plan
        self._poisson = poisson
        self._clients = clients
        self._options = options
        self._rank = rank
        self._world_size = world_size
        # `check_fit` has found them to be there.
        self._lengths: np.ndarray | None = dataset.lengths if options.group_by_length else None  # type: ignore[attr-defined]
        self._loader = DataLoader(
            _SeededReads(dataset),
            batch_sampler=_Batches(self),
            collate_fn=options.collate_fn,
            num_workers=options.num_workers,
            pin_memory=options.pin_memory,
            worker_init_fn=options.worker_init_fn,
            persistent_workers=options.num_workers > 0,
        )

    def __len__(self) -> int:
        """Return the round's batches; 1, which never comes, if it has none: 0 would end `fit`."""
        return max(self.plan.num_batches, 1)

    def __iter__(self) -> Iterator[Any]:
        # A generator: Lightning calls `iter` twice a round, and what the first has made workers
        # read is thrown away.
        if self.plan.visits:
            yield from self._loader

    def close(self) -> None:
        """Stop the workers; iterating again starts new ones."""
        workers, self._loader._iterator = self._loader._iterator, None
        if workers is not None:
            workers._shutdown_workers()  # type: ignore[attr-defined]  # torch has no public way

    def state_dict(self) -> dict[str, int]:
        """Tell Lightning that this loader can resume; where, the federated loop knows."""
        return {"round": self.plan.round}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Do nothing: the plan says where to start from."""

    def batches(self) -> Iterator[list[_Reading]]:
        """Yield what each batch is read from: indices with the seed under which they are read."""
        for group in self.plan.groups:
            skip = max(self.plan.start - group[0].first_batch, 0)
            readings = {visit: self._readings(visit, skip) for visit in group}
            for step in range(skip, max(visit.num_batches for visit in group)):
                yield [next(readings[visit]) for visit in in_step(group, step)]

    def alone(self, visit: Visit, step: int) -> Any:
        """Return one batch of one visit, read anew; with whatever generators that leaves behind."""
        dataset, collate = self._loader.dataset, self._loader.collate_fn
        assert isinstance(dataset, _SeededReads)
        return collate(dataset.__getitems__([next(self._readings(visit, step))]))

    def _readings(self, visit: Visit, skip: int) -> Iterator[_Reading]:
        draw = self._shuffled if self._poisson is None else self._drawn
        return draw(visit, skip)

    def _drawn(self, visit: Visit, skip: int) -> Iterator[_Reading]:
        assert self._poisson is not None
        indices = self._clients[visit.client]
        for step in range(skip, visit.num_batches):
            drawn = indices[self._poisson.draw(visit, step, self._rank, self._world_size)]
            chunk = drawn if len(drawn) else indices[:1]
            yield _Reading(chunk.tolist(), visit.seed_at(step, f"read {self._rank}"))

    def _shuffled(self, visit: Visit, skip: int) -> Iterator[_Reading]:
        size = self._options.batch_size * self._world_size
        order: np.ndarray = np.empty(0, dtype=np.int64)
        epoch_of_order = -1
        for step in range(skip, visit.num_batches):
            epoch, batch = divmod(step, visit.batches_per_epoch)
            if epoch != epoch_of_order:
                indices = self._clients[visit.client]
                generator = generator_for(visit.seed, "order", epoch)
                order = generator.permutation(indices)
                if self._lengths is not None:
                    order = group_by_length(order, self._lengths, size, generator)
                epoch_of_order = epoch
            chunk = order[batch * size : (batch + 1) * size]
            if self._world_size > 1:
                chunk = np.resize(chunk, -(-len(chunk) // self._world_size) * self._world_size)
                chunk = chunk[self._rank :: self._world_size]
            yield _Reading(chunk.tolist(), visit.seed_at(step, f"read {self._rank}"))


def in_step(group: Sequence[Visit], step: int) -> list[Visit]:
    """Return the visits of a group that have a batch `step`, the longest visits first."""
    longest = sorted(group, key=lambda visit: visit.num_batches, reverse=True)
    return [visit for visit in longest if step < visit.num_batches]


class _Reading(list[int]):
    """Indices of one client's batch and the seed under which their examples are read."""

    def __init__(self, indices: Sequence[int], seed: int) -> None:
        super().__init__(indices)
        self.seed = seed


class _Batches:
    """The batch sampler of the inner DataLoader."""

    def __init__(self, loader: RoundLoader) -> None:
        self._round = loader

    def __iter__(self) -> Iterator[list[_Reading]]:
        return self._round.batches()

    def __len__(self) -> int:
        return self._round.plan.num_batches - self._round.plan.start


class _SeededReads(Dataset[Any]):
    """Reads a client's whole batch under its own seed, in whichever process it happens."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self._dataset = dataset

    def __getitems__(self, readings: list[_Reading]) -> list[Any]:
        examples: list[Any] = []
        for reading in readings:
            seed_all(reading.seed)
            if (read := getattr(self._dataset, "__getitems__", None)) is not None:
                examples += read(list(reading))
            else:
                examples += [self._dataset[index] for index in reading]
        return examples
