"""Which silos have joined: each is greeted, and refused if it would take part differently."""

from __future__ import annotations

from collections.abc import Mapping
from time import monotonic, sleep

from fedtt_lightning import __version__
from fedtt_lightning.errors import FederationError
from fedtt_lightning.silo.messages import PROTOCOL, Done, Hello, Here, Refused, decode, encode
from fedtt_lightning.silo.transport import Failure, Transport

GREETING = 30.0
"""Seconds a silo has to say who it is, which its worker does while it trains, too."""

_PATIENCE = 10.0  # seconds of those for which a round is held up, when all others have answered,
_SHUN = 100.0  # but not again in so many seconds
_LARGEST_ANSWER = 1 << 20
_TOO_MANY = 1 << 40  # examples that nobody has
_PAUSE = 0.5
_ROUNDING = 0.01  # by which an accountant's epsilon may differ


class Roster:
    """The silos that have joined; silo k is client k.

    Args:
        transport: reaches the nodes.
        run: name of the run.
        examples: of each client, where an earlier process of the run knew them.
        epsilon: what each client has last said to have spent, which the caller keeps up to date.

    Attributes:
        joined: the node of each client that has joined.
        examples: of each client that has ever joined.
        trouble: why clients that have not joined have not, where it is known.
        left: when clients that had joined have left, by `time.monotonic`; not of those refused.
        hello: the greeting.
    """

    def __init__(
        self,
        transport: Transport,
        run: str,
        examples: tuple[int, ...] = (),
        epsilon: Mapping[int, float] | None = None,
    ) -> None:
        self._transport = transport
        self.hello = encode(Hello(run))
        self._clients = len(transport.silos)
        self._settings: Mapping[str, str] = {}
        self._theirs: dict[int, dict[str, str]] = {}
        self.trouble: dict[int, str] = {}
        self.joined: dict[int, int] = {}
        self.left: dict[int, float] = {}
        self._shunned: dict[int, float] = {}  # until when
        self.examples = dict(enumerate(examples))
        self._epsilon: Mapping[int, float] = {} if epsilon is None else epsilon

    def wait(self, timeout: float) -> None:
        """Return when all silos have joined, or after `timeout` seconds."""
        end, shown = monotonic() + timeout, -1
        while True:
            self.greet()
            if len(self.joined) != shown:
                shown = len(self.joined)
                print(f"{shown} of {self._clients} silos have joined", flush=True)
            if not self.missing or monotonic() >= end:
                return
            sleep(_PAUSE)

    @property
    def missing(self) -> str:
        """Which clients have not joined, and why if that is known; empty if all have."""
        clients = [client for client in range(self._clients) if client not in self.joined]
        why = [self.trouble.get(client, "no connection") for client in clients]
        return "; ".join(f"client {client}: {w}" for client, w in zip(clients, why, strict=True))

    def greet(self) -> None:
        """Ask the nodes that have not joined who they are, and forget those that are gone."""
        online = self.look()
        new = [node for node in online if node not in self.joined.values()]
        refused = {}
        for node, answer in self._transport.exchange(dict.fromkeys(new, self.hello), GREETING):
            if (reason := self.admit(node, answer)) is not None:
                refused[node] = reason
        self._tell(refused)

    def look(self) -> list[int]:
        """Return the nodes that can be reached, and forget those that are gone."""
        online = self._transport.nodes()
        for client, node in list(self.joined.items()):
            if node not in online:
                self.leave(client, "it has gone")
        return online

    def is_patient(self, greeted: Mapping[int, float]) -> bool:
        """Tell whether a round is to be held up for clients that were greeted at these times.

        One that is there and says nothing is waited for once, and not again for a while.
        """
        now = monotonic()
        waited = {c: when for c, when in greeted.items() if self._shunned.get(c, 0.0) <= when}
        ignored = {c: when for c, when in waited.items() if when + _PATIENCE <= now}
        self._shunned |= {client: when + _SHUN for client, when in ignored.items()}
        return len(ignored) < len(waited)

    def admit(self, node: int, answer: bytes | Failure) -> Refused | None:
        """Let a node join that has answered to `hello`, or return what it is to be told."""
        client = self._transport.silos[node]
        if isinstance(answer, Failure):
            self.trouble[client] = answer.reason
            return None
        try:
            self._admit(client, answer)
        except FederationError as error:
            return self._refuse(client, str(error))
        self.joined[client] = node
        return None

    def part(self, run: str, grace_s: float) -> None:
        """Tell the silos that the run is over.

        Args:
            grace_s: seconds that those which have gone may take to come back, to be told, too; of
                a server that was started only for this all silos have.
        """
        end = monotonic() + grace_s
        gone = {client for client, when in self.left.items() if when + grace_s > monotonic()}
        untold = {*self.joined, *gone} if self.joined or self.left else set(range(self._clients))
        told: set[int] = set()
        while True:
            new = [node for node in self._transport.nodes() if node not in told]
            letters = dict.fromkeys(new, encode(Done(run)))
            for node, answer in self._transport.exchange(letters, GREETING):
                if not isinstance(answer, Failure):
                    told.add(node)
                    untold.discard(self._transport.silos[node])
            if not untold or monotonic() >= end:
                return
            sleep(_PAUSE)

    def leave(self, client: int, why: str) -> None:
        """Greet a client again before it takes part again."""
        self.trouble[client] = why
        if self.joined.pop(client, None) is not None:
            self.left[client] = monotonic()

    def compare(self, settings: Mapping[str, str]) -> None:
        """Refuse silos that have not got these settings, from now on."""
        self._settings = settings
        refused = {}
        for client, node in list(self.joined.items()):
            try:
                self._compare(client, self._theirs[client])
            except FederationError as error:
                del self.joined[client]
                refused[node] = self._refuse(client, str(error))
        self._tell(refused)

    def _admit(self, client: int, answer: bytes) -> None:
        here = decode(answer, _LARGEST_ANSWER)
        if isinstance(here, Refused):
            raise FederationError(here.reason)
        if not isinstance(here, Here):
            raise FederationError(f"it answered {type(here).__name__} to Hello")
        if (here.version, here.protocol) != (__version__, PROTOCOL):
            raise FederationError(
                f"it has fedtt-lightning {here.version} (protocol {here.protocol}), the server "
                f"{__version__} (protocol {PROTOCOL}): install the same version"
            )
        if (here.client, here.clients) != (client, self._clients):
            raise FederationError(
                f"it has silo.client {here.client} and silo.clients {here.clients}, but is silo "
                f"{client} of {self._clients} at the server: use these numbers"
            )
        if not 1 <= here.examples < _TOO_MANY:
            raise FederationError(f"it says that it has {here.examples} examples: give it others")
        known = self.examples.get(client, here.examples)
        if here.examples != known:
            raise FederationError(
                f"it has {here.examples} examples, but {known} are known to the server: use the "
                "same data for the whole run"
            )
        check_account(here.epsilon, self._epsilon.get(client))
        self._compare(client, here.settings)
        self._theirs[client] = here.settings
        self.examples[client] = here.examples

    def _compare(self, client: int, theirs: Mapping[str, str]) -> None:
        for key, ours in self._settings.items():
            if (other := theirs.get(key, "nothing")) != ours:
                raise FederationError(
                    f"the server has {ours}, client {client} has {other}: use the same {key}"
                )

    def _refuse(self, client: int, reason: str) -> Refused:
        """Note why a client cannot take part, and say it here if it is news."""
        if self.trouble.get(client) != reason:
            print(f"client {client} is refused: {reason}", flush=True)
        self.trouble[client] = reason
        self.left.pop(client, None)
        return Refused(reason)

    def _tell(self, refused: Mapping[int, Refused]) -> None:
        letters = {node: encode(message) for node, message in refused.items()}
        for _ in self._transport.exchange(letters, GREETING):
            pass


def check_account(epsilon: float | None, known: float | None) -> None:
    """Raise FederationError if a silo has spent less of its privacy than it once said."""
    if epsilon is None or known is None:
        return
    if epsilon == 0 < known or epsilon < known - _ROUNDING:
        raise FederationError(
            f"it says that its privacy has cost epsilon {epsilon:.4g} so far, but {known:.4g} "
            "before: give it back the trainer.default_root_dir with its account, or leave it out"
        )
