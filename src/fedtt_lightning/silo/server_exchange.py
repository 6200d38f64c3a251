"""The server of a real federation: a Trainer whose clients all train elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from fedtt_lightning.callbacks.exchange import Exchange, VisitResult
from fedtt_lightning.callbacks.federated_rounds import find_federation
from fedtt_lightning.callbacks.lightning_private import count_elsewhere
from fedtt_lightning.callbacks.parts import client_data
from fedtt_lightning.errors import ConfigError, FederationError
from fedtt_lightning.federation import AdapterState, FederatedLoop, RoundPlan, RoundPlanner
from fedtt_lightning.silo.agreement import agreement
from fedtt_lightning.silo.answer_checks import largest_payload, read_answer, visit_result
from fedtt_lightning.silo.checks import (
    secure_problems,
    simulation_problems,
    single_update_problems,
)
from fedtt_lightning.silo.inquiry import Inquiry
from fedtt_lightning.silo.messages import NeedsAll, Train
from fedtt_lightning.silo.payloads import adapter_hash, pack_names, schema_hash, write_values
from fedtt_lightning.silo.roster import Roster, check_account
from fedtt_lightning.silo.run_file import FederationFile, hold_folder
from fedtt_lightning.silo.serve_settings import ServeSettings
from fedtt_lightning.silo.transport import Transport


class ServerExchange(Callback, Exchange):
    """Lets silos train a round's visits, and counts what they answer before the deadline.

    Of a round's clients those that cannot be reached are dropped, those that do not answer in time
    are late, and those that answer something else are rejected: the round goes on without them.
    Logged at each round's end, beside what simulation logs: `comm/wire_upload_bytes` and
    `comm/wire_download_bytes`, the messages of the round as they are sent, and with local privacy
    `dp/silo_epsilon_max` and `dp/silo_epsilon_mean`, what silos have last said to have spent.

    It comes first among the callbacks, since those after it plan with the silos' sizes.

    Args:
        settings: what `serve` says.
        connect: starts the transport.
    """

    received = True

    def __init__(self, settings: ServeSettings, connect: Callable[[], Transport]) -> None:
        self.settings = settings
        self._connect = connect
        self._transport: Transport | None = None
        self._folder: IO[bytes] | None = None  # the lock on it
        self._file = FederationFile("")
        self._seen: dict[int, int] = {}  # the last round whose adapter a client has answered to
        self._epsilon: dict[int, float] = {}
        self._moved: dict[str, int] = {}  # the last round whose aggregate has moved a tensor

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.world_size != 1:
            raise ConfigError(
                f"serve runs in one process, not in {trainer.world_size}: set trainer.devices and "
                "trainer.num_nodes to 1"
            )
        if stage != "fit":
            return
        find_federation(trainer).exchange = self
        client_data(trainer).silo = (0, self.settings.silos)

    def federation_problems(self, trainer: Trainer, module: LightningModule) -> Iterator[str]:
        """Give a line for everything that a real federation cannot work with."""
        yield from simulation_problems(trainer)
        if self.settings.secure_aggregation:
            yield from secure_problems(trainer)
            yield from single_update_problems(trainer, self.settings)

    def on_plan(
        self, trainer: Trainer, module: LightningModule, planner: RoundPlanner
    ) -> RoundPlanner:
        """Let silos tell how many examples they have, unless it is known from before a restart.

        Raises:
            FederationError: not all silos have joined in time.
        """
        self._folder = hold_folder(Path(trainer.default_root_dir))
        self._file = FederationFile.open(Path(trainer.default_root_dir))
        self._transport = self._connect()
        self._roster = Roster(self._transport, self._file.run, self._file.examples, self._epsilon)
        if not self._file.examples:
            self._wait(self.settings.silos)
        return replace(planner, sizes=np.array(self._examples(), dtype=np.int64))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse silos that are set up differently, and wait for all others.

        Raises:
            FederationError: too few have joined in time for a round.
        """
        self._roster.compare(agreement(trainer, self.settings.secure_aggregation))
        self._wait(find_federation(trainer).min_clients)
        self._file = replace(self._file, examples=self._examples())
        self._file.save(Path(trainer.default_root_dir))

    def share(self, trainer: Trainer, plan: RoundPlan) -> tuple[RoundPlan, RoundPlan]:
        """Return the round's plan, and that of nobody."""
        return plan, replace(plan, visits=())

    def gather(
        self, trainer: Trainer, module: LightningModule, results: list[VisitResult]
    ) -> list[VisitResult]:
        """Ask the silos of the round's visits, and return what they answer in time."""
        federation = find_federation(trainer)
        loop, plan, codec = federation.loop, federation.loop.plan, federation.upload
        assert self._transport is not None and plan is not None
        visits = {visit.client: visit for visit in plan.visits}
        largest = largest_payload(loop, codec)
        secure, keys = self.settings.secure_aggregation, {}

        def read(data: bytes, asked: Train, client: int) -> VisitResult | None:
            answer = read_answer(data, asked, visits[client], largest)
            if isinstance(answer, NeedsAll):
                return None
            check_account(answer.epsilon, self._epsilon.get(client))
            if answer.epsilon is not None:
                self._epsilon[client] = answer.epsilon
            if secure:
                keys[client] = answer.payload
                return VisitResult(visits[client], None, answer.loss, seconds=answer.seconds)
            norm = self.settings.max_update_norm
            return visit_result(answer, visits[client], loop, codec, norm)

        def write(client: int, everything: bool) -> Train:
            return self._train(trainer, loop, -1 if everything else self._seen.get(client, -1))

        inquiry = Inquiry(self._transport, self._roster, write, read)
        inquiry.run(list(visits), self.settings.round_deadline, self.settings.grace)
        if secure:
            from fedtt_lightning.silo.secure_collection import add_up  # needs libraries of Flower

            nodes, deadline = self._roster.joined, self.settings.round_deadline
            add_up(self._transport, nodes, inquiry, keys, loop, self._file.run, deadline)
        self._seen |= dict.fromkeys(inquiry.results, plan.round)
        dropped, late, rejected = (inquiry.lost[key] for key in ("dropped", "late", "rejected"))
        loop.rejected += rejected if inquiry.results else []
        gone = {*dropped, *late, *(() if inquiry.results else rejected)}
        loop.plan = replace(
            plan,
            visits=tuple(visit for visit in plan.visits if visit.client not in gone),
            dropped=(*plan.dropped, *dropped),
            late=(*plan.late, *late),
        )
        if inquiry.results:
            plan, own = self.share(trainer, loop.plan)
            count_elsewhere(trainer, plan.optimizer_steps(loop.planner.accumulate), plan, own)
        federation.log_round(module, "comm/wire_upload_bytes", inquiry.received)
        federation.log_round(module, "comm/wire_download_bytes", inquiry.sent)
        if spent := list(self._epsilon.values()):
            federation.log_round(module, "dp/silo_epsilon_max", max(spent))
            federation.log_round(module, "dp/silo_epsilon_mean", sum(spent) / len(spent))
        return [inquiry.results[client] for client in visits if client in inquiry.results]

    def on_aggregate(
        self, trainer: Trainer, module: LightningModule, old: AdapterState, new: AdapterState
    ) -> None:
        """Note which tensors have changed, so that only those are sent."""
        before = old.tensors()
        for name, tensor in new.tensors().items():
            if not torch.equal(tensor, before[name]):
                self._moved[name] = find_federation(trainer).loop.round

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Tell the silos that the run is over."""
        if self._transport is not None:
            self._roster.part(self._file.run, self.settings.grace)
        self._close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._close()

    def state_dict(self) -> dict[str, Any]:
        return {
            "run": self._file.run,
            "seen": dict(self._seen),
            "epsilon": dict(self._epsilon),
            "moved": dict(self._moved),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from `state_dict`.

        Raises:
            ConfigError: the checkpoint is of another run than the folder.
        """
        if state_dict["run"] != self._file.run:
            raise ConfigError(
                f"the checkpoint is of run {state_dict['run']}, but trainer.default_root_dir holds "
                f"run {self._file.run}: choose another folder, or that run's own checkpoint"
            )
        self._seen, self._moved = dict(state_dict["seen"]), dict(state_dict["moved"])
        self._epsilon.update(state_dict["epsilon"])  # the roster looks at it, too

    def _wait(self, needed: int) -> None:
        self._roster.wait(self.settings.join_timeout)
        if len(self._roster.joined) < needed:
            raise FederationError(
                f"silos are missing after serve.join_timeout={self.settings.join_timeout:g} "
                f"seconds: {self._roster.missing}"
            )
        if missing := self._roster.missing:
            print(f"going on without some silos: {missing}", flush=True)

    def _train(self, trainer: Trainer, loop: FederatedLoop, seen: int) -> Train:
        """Return the request to a client that last had the adapter of round `seen`, -1 for none."""
        shared = loop.schema.select([n for n in loop.schema.names if n not in loop.private])
        adapter = loop.adapter.select(shared)
        changed = [n for n in shared.names if seen < 0 or self._moved.get(n, -1) >= seen]
        return Train(
            run=self._file.run,
            round=loop.round,
            rounds=trainer.max_epochs or 0,
            experiment=loop.planner.experiment,
            schema=schema_hash(loop.schema),
            adapter=adapter_hash(adapter),
            trained=pack_names(loop.trained, loop.schema.names),
            changed=pack_names(changed, loop.schema.names),
            payload=write_values(adapter, changed),
        )

    def _examples(self) -> tuple[int, ...]:
        return tuple(self._roster.examples[client] for client in range(self.settings.silos))

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()
            self._transport = None
        if self._folder is not None:
            self._folder.close()
            self._folder = None
