"""A silo of a real federation: a Trainer that trains one client whenever the server asks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import isfinite
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping

from fedtt_lightning.callbacks.communication import Communication
from fedtt_lightning.callbacks.exchange import Exchange, VisitResult
from fedtt_lightning.callbacks.federated_checkpoint import FederatedCheckpoint
from fedtt_lightning.callbacks.federated_rounds import find_federation
from fedtt_lightning.callbacks.parts import client_data, silo_of
from fedtt_lightning.federation import (
    AdapterState,
    FixedSampler,
    RoundPlan,
    RoundPlanner,
    Visit,
)
from fedtt_lightning.silo.agreement import adapter_of
from fedtt_lightning.silo.checks import secure_problems, simulation_problems
from fedtt_lightning.silo.inbox import Answer
from fedtt_lightning.silo.listener import Listener, epsilon_spent
from fedtt_lightning.silo.messages import Refused, Train, Update, encode
from fedtt_lightning.silo.payloads import unpack_names
from fedtt_lightning.silo.silo_settings import SiloSettings


class SiloExchange(Callback, Exchange):
    """Trains the silo's client in the rounds in which the server asks for it, and answers.

    A round that is not asked for is an epoch without batches. An answer leaves when the round's
    checkpoint is on disk, with what the client's privacy has cost, so that the checkpoint never
    lags behind what was sent; it is in the checkpoint itself, and is given again to whoever asks
    for the same. Between rounds the adapter here is the one the last request came with.

    Put it in front of the trainer's callbacks. With several processes the first one talks.

    Args:
        settings: what `silo` says.
    """

    aggregates = False

    def __init__(self, settings: SiloSettings) -> None:
        self.settings = settings
        self._listener: Listener | None = None
        self._run: str | None = None
        self._answer: Answer | None = None
        self._ask: Train | None = None  # what is being trained
        self._shared: tuple[RoundPlan, RoundPlan] | None = None
        self._weights: AdapterState | None = None
        self._result: VisitResult | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        federation = find_federation(trainer)
        federation.exchange = self
        federation.below_min_clients = "skip"  # how many are too few is for the server to say
        federation.cohort_batch = 1
        client_data(trainer).silo = (self.settings.client, self.settings.clients)

    def federation_problems(self, trainer: Trainer, module: LightningModule) -> Iterator[str]:
        """Give a line for everything that a silo cannot work with."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        if not any(isinstance(callback, FederatedCheckpoint) for callback in callbacks):
            yield (
                "a silo answers only with what it has saved: add "
                "fedtt_lightning.callbacks.FederatedCheckpoint to trainer.callbacks"
            )
        if any(isinstance(callback, EarlyStopping) for callback in callbacks):
            yield "EarlyStopping in trainer.callbacks is for the server: remove it here"
        if self.settings.secure_aggregation:
            yield from secure_problems(trainer)
        yield from simulation_problems(trainer)
        if silo_of(trainer).count > 1:
            yield (
                f"a silo trains one client, but trainer.strategy has {silo_of(trainer).count} "
                "silos: set strategy.silos to 1"
            )

    def on_plan(
        self, trainer: Trainer, module: LightningModule, planner: RoundPlanner
    ) -> RoundPlanner:
        """Where only the silo's own data are known, plan for it to be asked in every round."""
        if np.count_nonzero(client_data(trainer).clients.sizes) == len(planner.sizes):
            return planner
        return replace(planner, sampler=FixedSampler([self.settings.client]), min_clients=1)

    def share(self, trainer: Trainer, plan: RoundPlan) -> tuple[RoundPlan, RoundPlan]:
        """Return the silo's own visit, if the server asks for it; wait until it does.

        Raises:
            ConfigError: the socket cannot be used, or the server refuses this silo.
            FederationError: nothing was heard of the server for too long.
        """
        if self._shared is None or self._shared[0].round != plan.round:
            listener = self._open(trainer)
            own = [visit for visit in plan.visits if visit.client == self.settings.client]
            local = replace(plan, visits=())
            if not own:
                listener.pass_over(plan.round)
            elif (ask := listener.wait(plan.round)) is not None:
                local = plan = replace(plan, visits=(replace(own[0], first_batch=0),))
                self._fetch(trainer, ask)
                self._ask = ask
            self._shared = plan, local
        return self._shared

    def on_round_start(self, trainer: Trainer, pl_module: LightningModule, plan: RoundPlan) -> None:
        """Train what the server says, whose schedule may have learned what this one has not."""
        loop = find_federation(trainer).loop
        if self._ask is not None:
            loop.trained = unpack_names(self._ask.trained, loop.schema.names)

    def on_client_trained(self, trainer: Trainer, pl_module: LightningModule, visit: Visit) -> None:
        loop = find_federation(trainer).loop
        self._weights = AdapterState.capture(loop.tensors, loop.travelling)

    def gather(
        self, trainer: Trainer, module: LightningModule, results: list[VisitResult]
    ) -> list[VisitResult]:
        """Return the own result, with the loss of all processes' parts of the batches."""
        if results and results[0].loss is not None and trainer.world_size > 1:
            loss = torch.tensor(results[0].loss, device=trainer.strategy.root_device)
            loss = trainer.strategy.reduce(loss.double(), reduce_op="mean")
            results = [replace(results[0], loss=float(loss))]
        self._result = results[0] if results else None
        return results

    def on_round_end(self, trainer: Trainer, pl_module: LightningModule, plan: RoundPlan) -> None:
        """Write the answer, which then goes into the round's checkpoint."""
        ask, result, self._ask, self._result = self._ask, self._result, None, None
        if ask is None or result is None or self._weights is None:
            return
        federation = find_federation(trainer)
        loop, message = federation.loop, federation.channel.message
        if federation.upload is not None and message is not None:
            payload = message.to_bytes()
        else:
            sent = loop.message_schema(self._weights.schema, self.settings.client)
            payload = self._weights.cut(sent).to_bytes()
        finite = result.loss is not None and isfinite(result.loss)
        update = Update(
            run=ask.run,
            round=ask.round,
            client=self.settings.client,
            examples=result.visit.num_examples,
            loss=result.loss if finite else None,
            seconds=result.seconds,
            epsilon=epsilon_spent(trainer),
            payload=payload,
        )
        self._run, self._weights = ask.run, None
        answer: Update | Refused = update
        if self.settings.secure_aggregation:
            from fedtt_lightning.silo.secure_answers import secret_part  # needs Flower's parts

            answer = secret_part(loop, result.visit, update)
        self._answer = Answer(ask.round, ask.adapter, encode(answer))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the last answer, also again, until the server says that the run is over.

        Also after a restart from the last round's checkpoint, where `on_train_end` is not called.
        """
        self._open(trainer).wait(None)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self.close(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.close(trainer)

    def close(self, trainer: Trainer) -> None:
        """Listen to nobody any more."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    def state_dict(self) -> dict[str, Any]:
        answer = None
        if self._answer is not None:
            data = torch.frombuffer(bytearray(self._answer.data), dtype=torch.uint8)
            answer = {"round": self._answer.round, "adapter": self._answer.adapter, "data": data}
        return {"run": self._run, "answer": answer}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._run, self._answer = state_dict["run"], None
        if (answer := state_dict["answer"]) is not None:
            data = answer["data"].numpy().tobytes()
            self._answer = Answer(answer["round"], answer["adapter"], data)

    def _open(self, trainer: Trainer) -> Listener:
        """Listen, or give the answer of the round before, whose checkpoint is on disk by now."""
        if self._listener is None:
            self._listener = Listener(self.settings, trainer, self._run, self._answer)
        elif self._answer is not None:
            self._listener.answer(self._answer)
        return self._listener

    def _fetch(self, trainer: Trainer, ask: Train) -> None:
        """Make the server's adapter this process's own."""
        loop = find_federation(trainer).loop
        adapter = adapter_of(loop, ask)
        assert adapter is not None
        adapter.copy_into(loop.adapter.tensors())
        adapter.copy_into(loop.tensors)
        changed = unpack_names(ask.changed, loop.schema.names)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Communication):
                callback.note_changed(changed, ask.round - 1)
