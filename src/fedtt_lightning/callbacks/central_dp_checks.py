"""What central privacy cannot work with; each reason with the key to change."""

from __future__ import annotations

from collections.abc import Iterator
from math import isfinite
from typing import TYPE_CHECKING

from lightning.pytorch import Trainer

from fedtt_lightning.callbacks.federated_rounds import FederatedRounds, find_federation
from fedtt_lightning.callbacks.local_dp import LocalDP
from fedtt_lightning.callbacks.scaffold import Scaffold
from fedtt_lightning.federation import PoissonSampler, PrivateMean

if TYPE_CHECKING:
    from fedtt_lightning.callbacks.central_dp import CentralDP


def central_dp_problems(settings: CentralDP, trainer: Trainer) -> Iterator[str]:
    """Give a line for each setting and other part of a run that breaks central privacy."""
    federation = find_federation(trainer)
    yield from _settings(settings)
    yield from _run(settings, trainer)
    yield from _federation(federation)
    if isinstance(federation.sampler, PoissonSampler):
        yield from _poisson(settings, federation, trainer)


def _settings(settings: CentralDP) -> Iterator[str]:
    epsilon, noise = settings.epsilon, settings.noise_multiplier
    if epsilon is None and noise is None:
        yield "CentralDP has neither epsilon nor noise_multiplier: give one, or both"
    if epsilon is not None and not (epsilon > 0 and isfinite(epsilon)):
        yield f"CentralDP's epsilon is {epsilon}, but must be a number > 0"
    if noise is not None and not (noise >= 0 and isfinite(noise)):
        yield f"CentralDP's noise_multiplier is {noise}, but must be a number >= 0"
    if noise == 0 and epsilon is not None:
        yield "CentralDP's noise_multiplier 0 protects nothing: leave epsilon out, or raise it"
    if not 0 < settings.delta < 1:
        yield f"CentralDP's delta is {settings.delta}, but must lie between 0 and 1"
    if settings.accountant not in ("rdp", "prv", "gdp"):
        yield f"CentralDP's accountant is {settings.accountant!r}, but must be rdp, prv or gdp"


def _run(settings: CentralDP, trainer: Trainer) -> Iterator[str]:
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    if settings.epsilon is not None and (trainer.max_epochs is None or trainer.max_epochs < 0):
        yield (
            "trainer.max_epochs is not limited, but CentralDP's epsilon is for the planned rounds: "
            "set it to the number of rounds"
        )
    if isinstance(trainer.limit_train_batches, int) and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        yield (
            f"trainer.limit_train_batches is {trainer.limit_train_batches}, which leaves out "
            "clients because of others, but CentralDP bounds what each changes: remove it, or set "
            "federation.local_steps"
        )
    if any(isinstance(callback, Scaffold) for callback in callbacks):
        yield (
            "Scaffold in trainer.callbacks uploads control variates without noise: remove it, or "
            "use FedProx, which CentralDP allows"
        )


def _federation(federation: FederatedRounds) -> Iterator[str]:
    if not isinstance(federation.aggregation, PrivateMean):
        yield (
            f"federation.aggregation is {type(federation.aggregation).__name__}, but CentralDP "
            "needs clipped updates: set it to fedtt_lightning.federation.PrivateMean"
        )
    if federation.weighting != "equal":
        yield (
            f"federation.weighting is {federation.weighting}, with which a client's size would "
            "change the mean beyond the clip: set it to equal"
        )
    if federation.ranks is not None:
        yield (
            "federation.ranks gives clients ranks of their own, but CentralDP adds up updates of "
            "one rank: remove it"
        )


def _poisson(settings: CentralDP, federation: FederatedRounds, trainer: Trainer) -> Iterator[str]:
    """What would tell how many clients a round has, which amplification by sampling hides."""
    if federation.min_clients > 1:
        yield (
            f"federation.min_clients is {federation.min_clients}: a round that PoissonSampler's "
            "draw makes smaller would be skipped, which tells who is not in it: set it to 1; a "
            "round without clients then adds noise alone"
        )
    if federation.below_min_clients == "fail":
        yield (
            "federation.below_min_clients is fail, but a round for which PoissonSampler draws "
            "nobody must look like any other: set it to skip"
        )
    if isinstance(federation.aggregation, PrivateMean) and federation.aggregation.codec is not None:
        yield (
            "federation.aggregation.codec lets clients add the noise, but in a round for which "
            "PoissonSampler draws nobody, nobody adds any: set federation.sampler to "
            "fedtt_lightning.federation.UniformSampler, or remove the codec"
        )
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    kinds = [type(callback).__name__ for callback in callbacks]
    if settings.secret_file is not None and "LocalDP" in kinds[: callbacks.index(settings)]:
        yield (
            "LocalDP stands before CentralDP in trainer.callbacks, and would plan for other "
            "cohorts than secret_file draws: put CentralDP first"
        )
    if any(isinstance(c, LocalDP) and c.epsilon is not None for c in callbacks):
        yield (
            "LocalDP's epsilon makes a client's noise and number of visits depend on the cohorts "
            "that PoissonSampler hides, which CentralDP's accounting cannot follow: give LocalDP "
            "noise_multiplier alone, or set federation.sampler to "
            "fedtt_lightning.federation.UniformSampler"
        )
