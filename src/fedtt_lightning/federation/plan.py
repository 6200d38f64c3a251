"""Who trains in a round, on which batches: pure functions of (experiment, round, client)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain, groupby, repeat
from math import ceil, floor, log10

import numpy as np

from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation.failures import ClientFailures, Outcome
from fedtt_lightning.federation.sampling import ClientSampler, UniformSampler
from fedtt_lightning.federation.seeds import seed_for


@dataclass(frozen=True)
class Visit:
    """One client's local training in a round.

    Attributes:
        round: number of the round, from 0.
        client: number of the client, from 0.
        seed: key of all randomness of the visit, from (experiment, round, client).
        num_examples: size of the client's data, its weight in the average.
        batches_per_epoch: batches of one pass over the client's data.
        num_batches: batches of the whole visit.
        first_batch: index of the visit's first batch in the round; of visits side by side the
            same.
    """

    round: int
    client: int
    seed: int
    num_examples: int
    batches_per_epoch: int
    num_batches: int
    first_batch: int

    def ends_epoch(self, step: int) -> bool:
        """Tell whether batch `step` is the last of a local epoch, or of the visit."""
        return (step + 1) % self.batches_per_epoch == 0 or self.is_last(step)

    def is_last(self, step: int) -> bool:
        return step + 1 == self.num_batches

    def steps_optimizer(self, step: int, accumulate: int) -> bool:
        """Tell whether the optimizer steps after batch `step` when `accumulate` batches make one.

        A window of accumulation ends with its local epoch, as it would in a training of its own.
        """
        return (step % self.batches_per_epoch + 1) % accumulate == 0 or self.ends_epoch(step)

    def seed_at(self, step: int, what: str = "step") -> int:
        """Return the seed of what happens at one batch."""
        return seed_for(self.seed, what, step)


@dataclass(frozen=True)
class RoundPlan:
    """The visits of one round, one after another or in groups that train side by side.

    A batch of a group holds one of each visit that is not over, and there are as many as its
    longest visit has.

    Attributes:
        round: its number, from 0.
        visits: clients that train and answer; none in a round that is skipped.
        dropped: clients that never answered.
        late: clients that answered after the deadline.
        exhausted: clients that were chosen but have no privacy budget left.
        unused: clients that answered in time to a round that is skipped, being too few.
        needed: finite updates without which the round is skipped.
        start: batches of the round that are already trained, when a run goes on inside it.
    """

    round: int
    visits: tuple[Visit, ...]
    dropped: tuple[int, ...] = ()
    late: tuple[int, ...] = ()
    unused: tuple[int, ...] = ()
    needed: int = 1
    start: int = 0
    exhausted: tuple[int, ...] = ()

    @property
    def skipped(self) -> bool:
        """Whether the round has too few clients to take place."""
        return not self.visits

    @cached_property
    def groups(self) -> tuple[tuple[Visit, ...], ...]:
        """The visits that begin at the same batch, in order; without groups, each alone."""
        same = groupby(self.visits, key=lambda visit: visit.first_batch)
        return tuple(tuple(group) for _, group in same)

    @cached_property
    def num_batches(self) -> int:
        return sum(max(visit.num_batches for visit in group) for group in self.groups)

    def optimizer_steps(self, accumulate: int) -> int:
        """Return the optimizer steps of all visits, one by one, `accumulate` batches making one."""
        steps = 0
        for visit in self.visits:
            epochs, rest = divmod(visit.num_batches, visit.batches_per_epoch)
            steps += epochs * ceil(visit.batches_per_epoch / accumulate) + ceil(rest / accumulate)
        return steps

    @cached_property
    def _starts(self) -> list[int]:
        return [visit.first_batch for visit in self.visits]

    def locate(self, batch: int) -> tuple[int, Visit, int]:
        """Return the visit's index, the visit and the step in it of the round's batch `batch`.

        Of a group it is the first visit.
        """
        start = self._starts[bisect_right(self._starts, batch) - 1]
        index = bisect_left(self._starts, start)
        return index, self.visits[index], batch - start

    def group(self, batch: int) -> tuple[Visit, ...]:
        """Return the visits that train side by side in the round's batch `batch`."""
        _, first, _ = self.locate(batch)
        return tuple(visit for visit in self.visits if visit.first_batch == first.first_batch)


@dataclass(frozen=True)
class RoundPlanner:
    """Draw the plan of any round, the same one however often and wherever it is asked for.

    Attributes:
        experiment: the seed that keys everything.
        sizes: examples of each client.
        batches_per_epoch: gives the batches of one pass for a number of examples.
        sampler: which clients take part in a round; all if not given.
        local_epochs: passes of a client over its data in a visit.
        local_steps: optimizer steps of a visit, in place of `local_epochs`.
        accumulate: batches that make one optimizer step.
        failures: which clients of a cohort do not answer, or too late; none if not given.
        min_clients: answers that a round needs to take place.
        max_batches: cap on a round's batches; later visits are cut.
        partition: a hash of which client holds what; a resumed run must have the same.
        batching: how batches are drawn, in words; a run resumed inside a round must have the same.
        retired: the round (0-based) from which a client whose privacy budget ends is left out.
        privacy: what the run's privacy rests on, in words; a resumed run must have the same.
        group_sizes: how many visits train side by side in a round's groups; the last size repeats.
    """

    experiment: int
    sizes: np.ndarray
    batches_per_epoch: Callable[[int], int]
    sampler: ClientSampler = field(default_factory=UniformSampler)
    local_epochs: int = 1
    local_steps: int | None = None
    accumulate: int = 1
    failures: ClientFailures | None = None
    min_clients: int = 1
    max_batches: int | None = None
    partition: str = ""
    batching: str = ""
    retired: Mapping[int, int] = field(default_factory=dict)
    privacy: str = "none"
    group_sizes: tuple[int, ...] = (1,)

    def check(self, rounds: int | None = None) -> None:
        """Raise ConfigError if rounds could not be planned; `rounds` is None for no limit."""
        if self.local_epochs < 1:
            raise ConfigError(f"federation.local_epochs is {self.local_epochs}, but must be >= 1")
        if self.local_steps is not None and self.local_steps < 1:
            raise ConfigError(f"federation.local_steps is {self.local_steps}, but must be >= 1")
        self.sampler.check(self.sizes, rounds)
        if self.failures is not None:
            self.failures.check()
        smallest = int(np.argmin(self.sizes))
        if self.batches_per_epoch(int(self.sizes[smallest])) < 1:
            raise ConfigError(
                f"client {smallest} has {self.sizes[smallest]} examples, fewer than one batch, and "
                "drop_last leaves it without any: lower data.batch_size or turn drop_last off"
            )
        self._check_min_clients()
        self._check_deadline()

    def _check_min_clients(self) -> None:
        if self.min_clients < 1:
            raise ConfigError(f"federation.min_clients is {self.min_clients}, but must be >= 1")
        size = self.sampler.largest_cohort(self.sizes)
        if self.min_clients > size:
            raise ConfigError(
                f"federation.min_clients is {self.min_clients}, but a round has at most {size} "
                "clients: lower it, or let federation.sampler choose more"
            )

    def _check_deadline(self) -> None:
        """Refuse a deadline with which every round is skipped; stop at the first that is not."""
        failures = self.failures
        if failures is None or failures.deadline is None:
            return
        times: list[float] = []
        in_time = 0
        for client in self.sampler.candidates(self.sizes):
            times.append(self.batches_of(client) * failures.pace(self.experiment, client))
            in_time += times[-1] <= failures.deadline
            if in_time == self.min_clients:
                return
        needed = sorted(times)[min(self.min_clients, len(times)) - 1]
        digit = 10.0 ** (floor(log10(needed)) - 1)  # rounded up to two digits
        fits = ceil(needed / digit) * digit
        raise ConfigError(
            f"federation.failures.deadline is {failures.deadline}, but only {in_time} of "
            f"{len(times)} clients can ever finish a visit in that time, and a round needs "
            f"federation.min_clients={self.min_clients}: set it to {fits:g} or "
            "more, or let clients train less"
        )

    def plan(self, round: int) -> RoundPlan:
        """Return the plan of a round (0-based)."""
        answers: dict[Outcome, list[int]] = {"done": [], "dropped": [], "late": []}
        exhausted: list[int] = []
        for client in self.sampler.cohort(self.experiment, round, self.sizes):
            if self.retired.get(client, round + 1) <= round:
                exhausted.append(client)
            else:
                answers[self._outcome(round, client)].append(client)
        dropped, late, done = (tuple(answers[key]) for key in ("dropped", "late", "done"))
        plan = RoundPlan(round, (), dropped, late, exhausted=tuple(exhausted))
        if len(done) < self.min_clients:
            return replace(plan, unused=done, needed=self.min_clients)
        visits = self._side_by_side(self._visits(round, done))
        needed = min(self.min_clients, len(visits))  # fewer visits only where `max_batches` cuts
        return replace(plan, visits=visits, needed=needed)

    def all_retired(self, round: int) -> bool:
        """Tell whether no client has privacy budget left for a round."""
        clients = range(len(self.sizes))
        return all(self.retired.get(client, round + 1) <= round for client in clients)

    def _outcome(self, round: int, client: int) -> Outcome:
        if self.failures is None:
            return "done"
        return self.failures.outcome(self.experiment, round, client, self.batches_of(client))

    def batches_of(self, client: int) -> int:
        """Return the batches of a client's visit, if nothing cuts it."""
        return self._visit_batches(self.batches_per_epoch(int(self.sizes[client])))

    def _visits(self, round: int, clients: Iterable[int]) -> tuple[Visit, ...]:
        visits: list[Visit] = []
        first = 0
        for client in clients:
            size = int(self.sizes[client])
            per_epoch = self.batches_per_epoch(size)
            batches = self._visit_batches(per_epoch)
            if self.max_batches is not None:
                batches = min(batches, self.max_batches - first)
            if batches < 1:
                break
            seed = seed_for(self.experiment, "visit", round, client)
            visits.append(Visit(round, client, seed, size, per_epoch, batches, first))
            first += batches
        return tuple(visits)

    def _side_by_side(self, visits: Sequence[Visit]) -> tuple[Visit, ...]:
        """Let the visits of a group, which follow each other, begin at the same batch."""
        if self.group_sizes == (1,):
            return tuple(visits)
        grouped: list[Visit] = []
        first = 0
        for size in chain(self.group_sizes, repeat(self.group_sizes[-1])):
            group = visits[len(grouped) : len(grouped) + size]
            if not group:
                break
            grouped += [replace(visit, first_batch=first) for visit in group]
            first += max(visit.num_batches for visit in group)
        return tuple(grouped)

    def _visit_batches(self, per_epoch: int) -> int:
        if self.local_steps is None:
            return self.local_epochs * per_epoch
        epochs, rest = divmod(self.local_steps, -(-per_epoch // self.accumulate))
        return epochs * per_epoch + min(rest * self.accumulate, per_epoch)
