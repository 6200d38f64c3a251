"""Who looks for canaries finds them without privacy, and with it no more than ε allows."""

from __future__ import annotations

from math import exp, inf
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from canaries import CanaryClassifier, CanaryClients, CanaryTexts, Uploads, flip_coins
from fedtt_lightning import BuiltinText, FederatedRounds, SequenceClassifier, TTAdapterConfig
from fedtt_lightning.callbacks import CentralDP, LocalDP
from fedtt_lightning.federation import PoissonSampler, PrivateMean
from fedtt_lightning.federation.aggregation.flat import flatten
from one_run_audit import Guesses, evidence, guess
from quiet_trainer import quiet_trainer

EPSILON, DELTA = 1.0, 1e-5
CLIP = 0.5
pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step`")
NO_NOISE = pytest.mark.filterwarnings("ignore:.*noise_multiplier is 0")


def classifier(kind: type[SequenceClassifier], backbone: str, labels: int) -> SequenceClassifier:
    torch.manual_seed(0)
    peft = TTAdapterConfig(rank=4, bottleneck=16, tt_classifier=True)
    return kind(backbone, peft, num_labels=labels, lr=0.01).double()


def attack_examples(folder: Path, backbone: str, dp: LocalDP | None) -> Guesses:
    """Guess which of 1000 examples of 10 clients are in, from all uploads of 3 rounds.

    Up to a factor, SGD uploads minus the sum of a visit's clipped gradients, which are nearly those
    at the visit's start. The server knows that model, so it knows what each example would add.
    """
    coins = flip_coins(1000)
    data = CanaryTexts(10, coins, batch_size=25)
    module = classifier(CanaryClassifier, backbone, labels=100)
    uploads = Uploads()
    callbacks: list[Callback] = [FederatedRounds(seed=5), *([dp] if dp else []), uploads]
    quiet_trainer(folder, 3, callbacks).fit(module, datamodule=data)
    scores = torch.zeros(len(coins), dtype=torch.float64)
    for client, sent, update in uploads.seen:
        examples = data.clients[client]
        gradients = module.gradients([data.examples[i] for i in examples], sent)
        bound = dp.clip if dp else inf
        clipped = gradients * (bound / gradients.norm(dim=1, keepdim=True)).clamp(max=1)
        scores[examples] += evidence(clipped, -flatten(update))
    return guess(scores, coins, made=200)


def attack_clients(folder: Path, backbone: str, dp: CentralDP | None) -> Guesses:
    """Guess which of 400 clients upload anything, from the adapters that 2 rounds release.

    Twenty others train on the built-in texts. Each round draws a client with a chance of 1/2.
    """
    coins = flip_coins(400)
    module = classifier(SequenceClassifier, backbone, labels=2)
    values = sum(p.numel() for p in module.parameters() if p.requires_grad)
    canaries = CanaryClients(coins, values, length=10 * CLIP)
    rule = {"aggregation": PrivateMean(CLIP)} if dp else {}
    sampler = PoissonSampler(0.5)
    rounds = FederatedRounds(seed=5, sampler=sampler, weighting="equal", **rule)
    callbacks: list[Callback] = [rounds, *([dp] if dp else []), canaries]
    trainer = quiet_trainer(folder, 2, callbacks, limit_val_batches=0)
    trainer.fit(module, datamodule=BuiltinText(train_size=420, batch_size=2, clients=420))
    return guess(evidence(canaries.directions, canaries.seen), coins, made=75)


def succeeds(guesses: Guesses) -> None:
    told(guesses)
    assert guesses.accuracy == 1.0
    assert guesses.epsilon_lower(DELTA) > 2.5 * EPSILON


def told(guesses: Guesses) -> None:
    """Print what docs/privacy.md reports."""
    print(
        f"{guesses}: accuracy {guesses.accuracy:.2f}, ε at least {guesses.epsilon_lower(DELTA):.2f}"
    )


def is_bounded(guesses: Guesses, spent: float) -> None:
    """Guesses are not even as good as ε alone allows, let alone significantly better."""
    told(guesses)
    assert 0.98 * EPSILON < spent <= EPSILON
    assert guesses.accuracy < 1 / (1 + exp(-spent))
    assert guesses.epsilon_lower(DELTA) < spent


@NO_NOISE
@pytest.mark.parametrize("clip", [None, CLIP], ids=["plain training", "clipping alone"])
def test_uploads_tell_examples_without_noise(
    clip: float | None, tmp_path: Path, tiny_backbone: str
) -> None:
    dp = LocalDP(noise_multiplier=0.0, clip=clip) if clip else None
    succeeds(attack_examples(tmp_path, tiny_backbone, dp))


def test_local_dp_bounds_what_uploads_tell(tmp_path: Path, tiny_backbone: str) -> None:
    dp = LocalDP(EPSILON, DELTA, CLIP)
    guesses = attack_examples(tmp_path, tiny_backbone, dp)
    is_bounded(guesses, dp.ledger.largest())


@NO_NOISE
@pytest.mark.parametrize("clipped", [False, True], ids=["plain averaging", "clipping alone"])
def test_released_adapters_tell_clients_without_noise(
    clipped: bool, tmp_path: Path, tiny_backbone: str
) -> None:
    dp = CentralDP(noise_multiplier=0.0) if clipped else None
    succeeds(attack_clients(tmp_path, tiny_backbone, dp))


def test_central_dp_bounds_what_released_adapters_tell(tmp_path: Path, tiny_backbone: str) -> None:
    dp = CentralDP(EPSILON, DELTA)
    guesses = attack_clients(tmp_path, tiny_backbone, dp)
    is_bounded(guesses, dp.ledger.largest())


@pytest.mark.parametrize(
    ("guesses", "delta", "published"),
    [(Guesses(75, 100, 1000), 1e-4, 0.673), (Guesses(1439, 1510, 100_000), 1e-5, 2.675)],
)
def test_lower_bounds_are_the_published_ones(
    guesses: Guesses, delta: float, published: float
) -> None:
    """Steinke et al., appendix D and section 7."""
    assert guesses.epsilon_lower(delta) == pytest.approx(published, abs=1e-3)
