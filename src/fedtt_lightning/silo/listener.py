"""How a silo's processes wait together for what the server asks of the first of them."""

from __future__ import annotations

from functools import partial
from math import isfinite
from pathlib import Path
from time import monotonic
from typing import IO, TYPE_CHECKING

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from fedtt_lightning import __version__
from fedtt_lightning.callbacks.federated_rounds import find_federation
from fedtt_lightning.callbacks.local_dp import LocalDP
from fedtt_lightning.errors import ConfigError, FederationError
from fedtt_lightning.silo.agreement import adapter_of, agreement, problem_of
from fedtt_lightning.silo.inbox import Answer, Inbox
from fedtt_lightning.silo.local_socket import LocalServer
from fedtt_lightning.silo.messages import (
    PROTOCOL,
    Done,
    Here,
    NeedsAll,
    Refused,
    Train,
    decode,
    encode,
)
from fedtt_lightning.silo.run_file import has_ended, hold_folder, note_end
from fedtt_lightning.silo.silo_settings import SiloSettings

if TYPE_CHECKING:
    from fedtt_lightning.silo.super_node import SuperNode

_HEARTBEAT = 1.0  # seconds between two words of the first process to the others
_FAREWELL = 10.0  # seconds that the answer to the server's last word may take to leave
_OVERHEAD = 1 << 20  # bytes of a message beside an adapter's values, at most
_VALUE = 8  # bytes of one of them, at most


class Listener:
    """Listens in the first process, which tells the others what to do.

    Args:
        settings: what `silo` says.
        trainer: whose federation has a loop already.
        run: to which the silo's state belongs, None before it has any.
        answer: the last one given, if there is one.

    Raises:
        ConfigError: the socket cannot be used; in all processes.
    """

    def __init__(
        self, settings: SiloSettings, trainer: Trainer, run: str | None, answer: Answer | None
    ) -> None:
        self._settings = settings
        self._trainer = trainer
        self._loop = find_federation(trainer).loop
        self._inbox: Inbox | None = None
        self._node: SuperNode | None = None
        self._folder: IO[bytes] | None = None  # the lock on it
        failure: Exception | None = None
        if trainer.is_global_zero:
            try:
                self._inbox = self._open(run, answer)
                self._node = self._connect()
            except Exception as error:  # or the others would wait for this process
                failure = error
        if problem := trainer.strategy.broadcast(_words(failure)):
            self.close()
            raise failure or ConfigError(problem)

    def _open(self, run: str | None, answer: Answer | None) -> Inbox:
        settings, loop = self._settings, self._loop
        limit = _VALUE * loop.schema.numel + _OVERHEAD
        here = Here(
            version=__version__,
            protocol=PROTOCOL,
            client=settings.client,
            clients=settings.clients,
            examples=int(loop.planner.sizes[settings.client]),
            settings=agreement(self._trainer, settings.secure_aggregation),
            epsilon=epsilon_spent(self._trainer),
        )
        folder, rounds = Path(self._trainer.default_root_dir), self._trainer.max_epochs
        self._folder = hold_folder(folder)
        secure = None
        if settings.secure_aggregation:
            from fedtt_lightning.silo.secure_answers import secure_answers  # needs Flower's parts

            secure = secure_answers(settings, self._trainer)
        server = LocalServer(settings.socket, limit)  # closed by the inbox from here on
        at_end = partial(note_end, folder, rounds)
        inbox = Inbox(server, limit, here, run, answer, loop.round, secure, at_end)
        if run is not None and has_ended(folder, rounds, run):
            inbox.ending = Done(run)  # the server will not say it again
        return inbox

    def _connect(self) -> SuperNode | None:
        """Start what connects this process to a server elsewhere."""
        settings = self._settings
        if settings.server is None:
            return None
        from fedtt_lightning.silo.super_node import SuperNode

        assert settings.root_certificate is not None and settings.key is not None
        return SuperNode(
            settings.server,
            settings.root_certificate,
            settings.key,
            settings.socket,
            Path(self._trainer.default_root_dir) / "flower",
            _VALUE * self._loop.schema.numel + _OVERHEAD,
            settings.give_up_after,
        )

    def wait(self, round: int | None) -> Train | None:
        """Wait until the server asks for this round, or something later.

        Args:
            round: None when all rounds are over, to wait for the end of the run alone.

        Returns:
            The request for the round; None if there will not be one, also when the run is over,
            which stops the trainer.

        Raises:
            ConfigError: the server refuses this silo.
            FederationError: nothing was heard of the server for too long.
        """
        start = monotonic()
        while True:
            word, data = "", b""
            failure: Exception | None = None
            if self._inbox is not None:
                try:
                    word, data = self._listen(self._inbox, round, start)
                except Exception as error:  # or the others would wait for this process
                    failure, word, data = error, "broken", _words(error).encode()
            word, data = self._trainer.strategy.broadcast((word, data))
            if word == "train":
                ask = decode(data, len(data))
                assert isinstance(ask, Train)
                return ask
            if word == "stop":
                raise SIGTERMException
            if word == "refused":
                raise ConfigError(data.decode())
            if word == "broken":
                raise failure or FederationError(data.decode())
            if word == "silent" and round is not None:
                raise FederationError(data.decode())
            if word == "done":
                self._trainer.should_stop = True
            if word:
                return None

    def _listen(self, inbox: Inbox, round: int | None, start: float) -> tuple[str, bytes]:
        """Return what is to be done, with data; an empty word means to listen on."""
        if self._trainer.received_sigterm:
            return "stop", b""
        ask = inbox.next(_HEARTBEAT)
        if isinstance(inbox.ending, Refused):
            return "refused", inbox.ending.reason.encode()
        if inbox.ending is not None:
            return "done", b""
        if ask is None:
            return self._silence(max(start, inbox.heard))
        if problem := problem_of(self._trainer, self._loop, ask):
            inbox.turn_down(ask, Refused(problem))
        elif round is None:
            inbox.turn_down(ask, Refused(f"client {self._settings.client} has ended its training"))
        elif ask.round > round:
            inbox.pass_over(round)
            return "pass", b""
        elif adapter_of(self._loop, ask) is None:
            inbox.turn_down(ask, NeedsAll(ask.run, ask.round))
        else:
            inbox.take(ask)
            return "train", encode(ask)
        return "", b""

    def _silence(self, since: float) -> tuple[str, bytes]:
        """Return that the server was not there for too long, if so.

        Where a connection is kept, it tells more than requests, of which there may be few.
        """
        limit = self._settings.give_up_after
        if self._node is not None:
            try:
                self._node.check()
            except FederationError as error:
                return "silent", str(error).encode()
        elif monotonic() - since > limit:
            reason = (
                f"the server has asked for nothing for {limit:g} s: see whether it runs and "
                "reaches this silo, or raise silo.give_up_after"
            )
            return "silent", reason.encode()
        return "", b""

    def answer(self, answer: Answer) -> None:
        """Give this answer to all who have asked for it, and ask again from now on."""
        if self._inbox is not None:
            self._inbox.answer(answer, epsilon_spent(self._trainer))

    def pass_over(self, round: int) -> None:
        """Note that a round begins of which the server cannot ask anything here."""
        if self._inbox is not None:
            self._inbox.pass_over(round)

    def close(self) -> None:
        """Listen no more."""
        if self._node is not None:
            if self._inbox is not None and self._inbox.ending is not None:
                self._node.pass_on(_FAREWELL)
            self._node.close()
        if self._inbox is not None:
            self._inbox.close()
        if self._folder is not None:
            self._folder.close()


def epsilon_spent(trainer: Trainer) -> float | None:
    """Return what the client's privacy has cost so far, None without local privacy or bound."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, LocalDP):
            spent = callback.ledger.largest()
            return spent if isfinite(spent) else None
    return None


def _words(error: Exception | None) -> str:
    return "" if error is None else str(error) or repr(error)
