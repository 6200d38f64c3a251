"""A silo's answers in secure aggregation, and its memory of the sums it was part of."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
from lightning.pytorch import Trainer

from fedtt_lightning.callbacks.federated_rounds import find_federation
from fedtt_lightning.errors import ConfigError, FederationError
from fedtt_lightning.federation import FederatedLoop, SecureMean, SecureRule, Visit
from fedtt_lightning.silo.messages import Refused, Stage, Update, decode, encode
from fedtt_lightning.silo.secure_client import SecureClient
from fedtt_lightning.silo.secure_letters import (
    integer_bytes,
    read_clients,
    read_integers,
    write_integers,
)
from fedtt_lightning.silo.silo_settings import SiloSettings

NOTE = "secure-sum.json"
"""The file in which a silo notes the last sum it helped to unmask."""


class SecureAnswers:
    """Takes part in one sum a round with the update of the silo's visit.

    Which clients that sum was over is noted in a file before the silo helps to unmask it. If the
    server loses it and does the round again, the silo helps with a sum over the same clients only:
    two sums that differ by a client give its update away.

    Args:
        client: the silo's number.
        clients: how many silos there are.
        bits: of the modulus.
        fewest: clients whose sum the server may know.
        note: the file.
    """

    def __init__(self, client: int, clients: int, bits: int, fewest: int, note: Path) -> None:
        self._client, self._clients = client, clients
        self._bits, self._fewest = bits, fewest
        self._note = note
        self._half: SecureClient | None = None
        self._open = ("", -1)
        self._values = np.empty(0, np.uint64)

    def begin(self, answer: bytes) -> bytes:
        """Return what leaves of an answer to `Train`: new public keys in place of its payload."""
        update = decode(answer, len(answer))
        if not isinstance(update, Update):
            return answer
        self._open = update.run, update.round
        purpose = secure_purpose(*self._open)
        self._half = SecureClient(self._client, self._clients, purpose, self._fewest)
        size = len(update.payload) // integer_bytes(self._bits)
        self._values = read_integers(update.payload, self._bits, size)
        return encode(replace(update, payload=self._half.keys()))

    def answer(self, ask: Stage) -> Stage:
        """Return what the silo says in a stage.

        Raises:
            FederationError: the round is not open here, or the stage is one that an honest server
                does not ask for.
        """
        if self._half is None or self._open != (ask.run, ask.round):
            raise FederationError(
                f"secure aggregation of round {ask.round + 1} is not open here: its keys were lost "
                "when the silo started again"
            )
        if ask.stage == 1:
            payload = self._half.share(ask.payload)
        elif ask.stage == 2:
            payload = self._half.masked(ask.payload, self._values, self._bits)
        elif ask.stage == 3:
            self._remember(ask)
            payload = self._half.reveal(ask.payload)
        else:
            raise FederationError(f"secure aggregation has no stage {ask.stage}")
        return Stage(ask.run, ask.round, ask.stage, payload)

    def _remember(self, ask: Stage) -> None:
        """Note which clients a sum is over, unless another one of the round or later is noted."""
        members = sorted(read_clients(ask.payload))
        new = {"run": ask.run, "round": ask.round, "clients": members}
        if self._note.exists():
            old = json.loads(self._note.read_text())
            if old["run"] == ask.run and old != new and old["round"] >= ask.round:
                raise FederationError(
                    f"round {ask.round + 1} is asked to be unmasked for clients {members}, but "
                    f"round {old['round'] + 1} was for clients {old['clients']}: two different "
                    "sums would give single updates away"
                )
        temporary = self._note.with_name(self._note.name + ".tmp")
        with temporary.open("w") as file:
            json.dump(new, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._note)


def secure_purpose(run: str, round: int) -> bytes:
    """Return what binds the secrets of a round to it."""
    return f"{run}\0{round}".encode()


def secure_answers(settings: SiloSettings, trainer: Trainer) -> SecureAnswers:
    """Return what a silo's trainer needs to take part in sums.

    Raises:
        ConfigError: the client weighs more than there is room for.
    """
    loop = find_federation(trainer).loop
    rule, size = loop.aggregation, loop.planner.sizes[settings.client]
    assert isinstance(rule, SecureRule) and rule.bits is not None
    if isinstance(rule, SecureMean) and loop.weighting == "examples" and size > rule.max_weight:
        raise ConfigError(
            f"client {settings.client} has {size} examples, but federation.aggregation.max_weight "
            f"is {rule.max_weight:g}: raise it at the server and all silos"
        )
    fewest, note = rule.fewest(settings.clients), Path(trainer.default_root_dir) / NOTE
    return SecureAnswers(settings.client, settings.clients, rule.bits, fewest, note)


def secret_part(loop: FederatedLoop, visit: Visit, answer: Update) -> Update | Refused:
    """Return an answer with the integers that the client adds to the sum, for `SecureAnswers`.

    Raises:
        FederationError: the update does not fit the numbers of `federation.aggregation`.
    """
    rule = loop.aggregation
    assert isinstance(rule, SecureRule) and rule.bits is not None
    if loop.counted is None:
        return Refused("its update holds NaN or Inf")
    values = rule.message(visit.client, loop.counted, loop.weight(visit)).cpu().numpy()
    return replace(answer, payload=write_integers(values.astype(np.uint64), rule.bits))
