"""A silo's socket: a thread answers what it can at once, and keeps the next visit asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from threading import Condition, Thread
from time import monotonic
from typing import TYPE_CHECKING

from fedtt_lightning.errors import FederationError
from fedtt_lightning.silo.local_socket import LocalServer, Request
from fedtt_lightning.silo.messages import (
    Done,
    Hello,
    Here,
    Message,
    Refused,
    Stage,
    Train,
    decode,
    encode,
)

if TYPE_CHECKING:
    from fedtt_lightning.silo.secure_answers import SecureAnswers

_POLL = 0.5


@dataclass(frozen=True)
class Answer:
    """An encoded answer to the request with this round and adapter."""

    round: int
    adapter: str
    data: bytes

    def fits(self, ask: Train) -> bool:
        return (ask.round, ask.adapter) == (self.round, self.adapter)


class Inbox:
    """What the server asks of a silo, while its trainer trains.

    The same request, asked again, gets the same bytes, so that the server may ask again after
    either side has been killed. A later round replaces an earlier one that was not begun yet.

    Args:
        server: of the silo's socket, closed by `close`.
        limit: bytes a request may have.
        here: the answer to `Hello`.
        run: to which the silo's state belongs, None before it has any.
        answer: the last one given, if there is one.
        begun: the last round that was begun.
        secure: what answers go through before they leave, under secure aggregation.
        at_end: is told which run is over, before the server learns that it is known here.

    Attributes:
        ending: what ends the silo, once the server has said it.
        heard: when the last request came, by `time.monotonic`.
    """

    def __init__(
        self,
        server: LocalServer,
        limit: int,
        here: Here,
        run: str | None,
        answer: Answer | None,
        begun: int,
        secure: SecureAnswers | None = None,
        at_end: Callable[[str], None] | None = None,
    ) -> None:
        self._server = server
        self._limit = limit
        self._here = here
        self._answer = answer
        self._secure = secure
        self._at_end = at_end
        self._begun = begun
        self._next: tuple[Train, Request] | None = None
        self._current: Train | None = None
        self._waiting: list[Request] = []
        self._replaced: list[tuple[Train, Request]] = []  # whose place others have taken
        self._strangers: set[str] = set()  # other runs that have asked
        self._closed = False
        self._broken: Exception | None = None  # what ended the thread
        self._changed = Condition()
        self.run = run
        self.ending: Done | Refused | None = None
        self.heard = monotonic()
        self._thread = Thread(target=self._serve, daemon=True, name="inbox")
        self._thread.start()

    def next(self, timeout: float) -> Train | None:
        """Return the visit asked for, or None after `timeout` seconds or at the run's end.

        Raises:
            FederationError: nothing can be heard any more.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._next or self.ending or self._broken, timeout)
            if self._broken is not None:
                raise FederationError(f"the silo's socket broke: {self._broken!r}")
            return self._next[0] if self._next and not self.ending else None

    def take(self, ask: Train) -> None:
        """Begin the visit that `next` returned; its request waits for `answer`."""
        with self._changed:
            self._begun, self._current, self.run = ask.round, ask, ask.run
            if self._next is not None and self._next[0] == ask:
                self._waiting.append(self._next[1])
                self._next = None

    def pass_over(self, round: int) -> None:
        """Note that a round begins without a visit here."""
        missed = None
        with self._changed:
            self._begun = round
            if self._next is not None and self._next[0].round <= round:
                missed, self._next = self._next, None
        if missed is not None:
            missed[1].reply(encode(self._too_late(missed[0].round)))

    def turn_down(self, ask: Train, message: Message) -> None:
        """Answer what `next` returned without a visit."""
        with self._changed:
            request = None
            if self._next is not None and self._next[0] == ask:
                request, self._next = self._next[1], None
        if request is not None:
            request.reply(encode(message))

    def answer(self, answer: Answer, epsilon: float | None) -> None:
        """Give this answer to all who have asked for it, and ask again from now on.

        Args:
            epsilon: what the client's privacy has cost with it.
        """
        with self._changed:
            self._here = replace(self._here, epsilon=epsilon)
            requests, self._waiting = self._waiting, []
            self._answer, self._current = answer, None
            data = self._leaving(answer)
        for request in requests:
            request.reply(data)

    def close(self) -> None:
        """Listen no more."""
        self._closed = True
        self._thread.join(5)
        self._server.close()

    def _serve(self) -> None:
        try:
            self._hear()
        except Exception as error:  # or the trainer would wait for ever
            with self._changed:
                self._broken = error
                self._changed.notify_all()

    def _hear(self) -> None:
        while not self._closed:
            if (request := self._server.receive(_POLL)) is None:
                continue
            try:
                reply = self._receive(decode(request.payload, self._limit), request)
            except FederationError as error:
                reply = Refused(str(error))
            if reply is not None:
                request.reply(reply if isinstance(reply, bytes) else encode(reply))
            while self._replaced:  # by this thread, so no lock is held while their peers read
                old, asked = self._replaced.pop()
                asked.reply(encode(Refused(f"another round than {old.round + 1} was asked for")))

    def _receive(self, message: Message, request: Request) -> Message | bytes | None:
        """Return the answer to a request, or None if it has to wait for a visit."""
        with self._changed:
            self.heard = monotonic()
            if isinstance(message, Hello | Train | Done) and self.run not in (None, message.run):
                return self._stranger(message.run)
            if isinstance(message, Hello):
                return self._here
            if isinstance(message, Train):
                return self._receive_ask(message, request)
            if isinstance(message, Stage) and self._secure is not None:
                return self._secure.answer(message)
            if isinstance(message, Done) and self._at_end is not None:
                self._at_end(message.run)
            if isinstance(message, Done | Refused):
                self.ending = message
                self._changed.notify_all()
                return message
        return Refused(f"a server does not send {type(message).__name__}")

    def _receive_ask(self, ask: Train, request: Request) -> Message | bytes | None:
        if self._answer is not None and self._answer.fits(ask):
            return self._leaving(self._answer)
        if self._current is not None and (
            (ask.round, ask.adapter) == (self._current.round, self._current.adapter)
        ):
            self._waiting.append(request)
            return None
        if ask.round <= self._begun:
            return self._too_late(ask.round)
        if self._next is not None:
            self._replaced.append(self._next)
        self._next = ask, request
        self._changed.notify_all()
        return None

    def _too_late(self, round: int) -> Refused:
        return Refused(
            f"client {self._here.client} has begun round {self._begun + 1} already, and goes back "
            f"to round {round + 1} only from a checkpoint of before"
        )

    def _leaving(self, answer: Answer) -> bytes:
        """Return the bytes of an answer as they leave."""
        return answer.data if self._secure is None else self._secure.begin(answer.data)

    def _stranger(self, run: str) -> Refused:
        reason = (
            f"client {self._here.client} holds the state of run {self.run}, not of run {run}: give "
            "it another trainer.default_root_dir, or go on with that run"
        )
        if run not in self._strangers:
            self._strangers.add(run)
            print(f"refused: {reason}", file=sys.stderr, flush=True)
        return Refused(reason)
