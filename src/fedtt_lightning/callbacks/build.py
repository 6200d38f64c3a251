"""From FederatedRounds' settings to a planner and a loop, and whether they fit together."""

from __future__ import annotations

import os
from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np
from lightning.pytorch import LightningModule, Trainer

from fedtt_lightning.callbacks.checks import check_module
from fedtt_lightning.callbacks.parts import (
    client_data,
    freezing_schedule,
    private_names,
    silo_of,
    trainable_parameters,
    with_hook,
)
from fedtt_lightning.callbacks.upload import check_upload
from fedtt_lightning.data.round_loader import batches_per_epoch
from fedtt_lightning.errors import ConfigError
from fedtt_lightning.federation import (
    AdapterSchema,
    FedAvg,
    FederatedLoop,
    FreezingSchedule,
    RoundPlanner,
)
from fedtt_lightning.federation.ranks import RankRangeError

if TYPE_CHECKING:
    from fedtt_lightning.callbacks.federated_rounds import FederatedRounds

_ROUNDS_CHECKED = 32  # more than the period of any schedule here


def make_planner(
    settings: FederatedRounds, trainer: Trainer, module: LightningModule
) -> RoundPlanner:
    """Divide the data among the clients and return the planner of their rounds.

    Other callbacks may return another planner from their `on_plan(trainer, module, planner)`.

    Raises:
        ConfigError: rounds cannot be planned.
    """
    data = client_data(trainer)
    data.poisson = None  # of an earlier fit
    seed = settings.seed
    experiment = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
    data.federate(experiment)
    silo = silo_of(trainer)
    data.processes = (silo.rank, silo.size)
    limit = trainer.limit_train_batches
    options = data.loader
    sizes = data.clients.sizes
    planner = RoundPlanner(
        experiment=experiment,
        sizes=np.where(sizes, sizes, sizes.max()),  # nothing is known of clients elsewhere
        batches_per_epoch=lambda size: batches_per_epoch(size, data.loader, silo.size),
        sampler=settings.sampler,
        local_epochs=settings.local_epochs,
        local_steps=settings.local_steps,
        accumulate=trainer.accumulate_grad_batches,
        failures=settings.failures,
        min_clients=settings.min_clients,
        max_batches=limit if isinstance(limit, int) else None,
        partition=data.clients.digest(),
        batching=(
            f"batches of {options.batch_size * silo.size} in all, group_by_length "
            f"{options.group_by_length} and drop_last {options.drop_last}"
        ),
        group_sizes=(1 if settings.cohort_batch == "auto" else settings.cohort_batch,),
    )
    rounds = trainer.max_epochs
    planner.check(rounds if rounds is not None and rounds >= 0 else None)
    for callback in with_hook(trainer, "on_plan"):
        planner = callback.on_plan(trainer, module, planner) or planner
    return planner


def check_federation(
    settings: FederatedRounds, planner: RoundPlanner, trainer: Trainer, module: LightningModule
) -> None:
    """Raise ConfigError if module, schedule, aggregation, server and ranks do not fit."""
    schedule = freezing_schedule(trainer)
    check_module(module, schedule, silo_of(trainer).count)
    names = tuple(trainable_parameters(module))
    private = private_names(trainer, names)
    if len(private) == len(names):
        raise ConfigError("every trainable parameter is private: nothing is left to federate")
    for round in range(_ROUNDS_CHECKED):
        travels = schedule.trained(names, round, planner.experiment) - private
        if not travels:
            raise ConfigError(
                f"nothing would travel in round {round + 1}: the schedule of FactorFreezing in "
                f"trainer.callbacks, {schedule!r}, trains nothing then that is shared: choose "
                "another, or keep fewer tensors private"
            )
        settings.aggregation.check_trained(travels, round)
    schema = AdapterSchema.of(trainable_parameters(module))
    shared = schema.select([name for name in names if name not in private])
    settings.server.check(shared)
    settings.aggregation.check(shared, fewest_updates(planner))
    _check_limit(settings, planner, trainer)
    check_upload(settings)
    if settings.aggregation.replaces_factors and learns(schedule):
        raise ConfigError(
            f"federation.aggregation {type(settings.aggregation).__name__} makes factors anew each "
            f"round, from which {type(schedule).__name__} learns nothing: choose another schedule"
        )
    companion = settings.aggregation.companion
    if companion and companion not in [type(callback).__name__ for callback in trainer.callbacks]:  # type: ignore[attr-defined]
        raise ConfigError(
            f"federation.aggregation {type(settings.aggregation).__name__} works with the callback "
            f"{companion} only: add fedtt_lightning.callbacks.{companion} to trainer.callbacks"
        )
    if settings.aggregation.replaces_factors and not (
        type(settings.server) is FedAvg and settings.server.lr == 1
    ):
        raise ConfigError(
            f"federation.aggregation {type(settings.aggregation).__name__} makes factors anew each "
            f"round, so steps of federation.server {type(settings.server).__name__} in them mean "
            "nothing: use FedAvg with lr 1"
        )
    if (ranks := client_ranks(settings, planner)) is not None:
        try:
            settings.aggregation.check_ranks(shared, ranks)
        except RankRangeError as error:
            assert settings.ranks is not None
            raise error.at(settings.ranks.place(error.client)) from None


def _check_limit(settings: FederatedRounds, planner: RoundPlanner, trainer: Trainer) -> None:
    """Raise ConfigError if the cap on a round's batches leaves too few clients."""
    if planner.max_batches is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    left = len(planner.plan(0).visits)
    if left and (problem := settings.aggregation.problem(left)):
        raise ConfigError(
            f"trainer.limit_train_batches={planner.max_batches} leaves {left} clients a round: "
            f"{problem}: raise it"
        )


def learns(schedule: FreezingSchedule) -> bool:
    """Tell whether a schedule goes by the aggregated updates it is shown."""
    return type(schedule).observe is not FreezingSchedule.observe


def fewest_updates(planner: RoundPlanner) -> int:
    """Return the fewest updates a round that takes place can have, if all of them are finite."""
    size = planner.sampler.smallest_cohort(planner.sizes) if planner.failures is None else None
    return max(size or 0, planner.min_clients)


def client_ranks(settings: FederatedRounds, planner: RoundPlanner) -> np.ndarray | None:
    """Return the rank of each client, int64 (clients,), or None if all have the adapter's."""
    if settings.ranks is None:
        return None
    return settings.ranks.ranks(planner.experiment, len(planner.sizes))


def make_loop(
    settings: FederatedRounds, planner: RoundPlanner, trainer: Trainer, module: LightningModule
) -> FederatedLoop:
    """Return the loop over the module's trainable parameters.

    It has copies of what learns over rounds, so that another `fit` begins afresh.
    """
    parameters = trainable_parameters(module)
    return FederatedLoop(
        planner,
        parameters,
        deepcopy(freezing_schedule(trainer)),
        deepcopy(settings.server),
        deepcopy(settings.aggregation),
        settings.weighting,
        settings.below_min_clients,
        private_names(trainer, tuple(parameters)),
        client_ranks(settings, planner),
    )
