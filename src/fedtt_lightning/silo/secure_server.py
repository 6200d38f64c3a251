"""The server's half of secure aggregation: it passes letters on and gets the sum, nothing else."""

from __future__ import annotations

import numpy as np

from fedtt_lightning.errors import FederationError
from fedtt_lightning.silo.secure_client import PURPOSE, pair_secret
from fedtt_lightning.silo.secure_crypto import (
    KeyPair,
    commitment,
    join_secret,
    mask,
)
from fedtt_lightning.silo.secure_letters import (
    KEYS,
    LETTER,
    SECRET,
    read_integers,
    read_records,
    write_book,
    write_clients,
    write_records,
)


class SecureServer:
    """One round of the protocol whose other half is `SecureClient`.

    For each stage a method takes a client's answer, and raises FederationError if it is none, which
    leaves that client out; another closes the stage and returns what is to be sent, and raises
    FederationError if too few have answered. Any may vanish between stages, as long as `needed`
    are left. The masked vectors are added as they come; none is kept.

    Args:
        purpose: names run and round, as for the clients.
        bits: of the modulus.
        size: values of a vector.
        fewest: clients below which there is no sum; more than half of those who begin are needed.
    """

    def __init__(self, purpose: bytes, bits: int, size: int, fewest: int) -> None:
        self._purpose = PURPOSE + purpose
        self._bits, self._size, self.needed = bits, size, fewest
        self._keys: dict[int, bytes] = {}
        self._commitments: dict[int, bytes] = {}
        self._letters: dict[int, dict[int, bytes]] = {}  # by sender, then receiver
        self._revealed: dict[int, list[bytes]] = {}
        self._total = np.zeros(size, dtype=np.uint64)
        self.members: list[int] = []
        """Whose vectors are in the sum."""

    def add_keys(self, client: int, answer: bytes) -> None:
        if len(answer) != KEYS:
            raise FederationError(f"client {client} sent {len(answer)} bytes of keys, not {KEYS}")
        halves = answer[:SECRET], answer[SECRET:]
        known = {half for pair in self._keys.values() for half in (pair[:SECRET], pair[SECRET:])}
        if len({*known, *halves}) < len(known) + 2:
            raise FederationError(f"client {client} sent a public key that another one has")
        self._keys[client] = answer

    def book(self) -> bytes:
        """Return the public keys for all who sent theirs."""
        self.needed = max(2, len(self._keys) // 2 + 1, self.needed)
        self._check(len(self._keys), "have sent their keys")
        return write_book(self.needed, self._keys)

    def add_shares(self, client: int, answer: bytes) -> None:
        letters = read_records(answer[SECRET:], LETTER)
        if {*letters, client} != self._keys.keys() or client in letters:
            raise FederationError(f"client {client} sent letters to {sorted(letters)}, not to all")
        self._commitments[client], self._letters[client] = answer[:SECRET], letters

    def mail(self, client: int) -> bytes:
        """Return the letters to a client that has sent its own."""
        self._check(len(self._letters), "have shared their secrets")
        others = (sender for sender in self._letters if sender != client)
        return write_records({sender: self._letters[sender][client] for sender in others})

    def add_masked(self, client: int, answer: bytes) -> None:
        if client not in self._letters or client in self.members:
            raise FederationError(f"client {client} has no masked update to send, or sent it")
        self._total += read_integers(answer, self._bits, self._size)
        self.members.append(client)

    def survivors(self) -> bytes:
        """Return whose vectors have arrived."""
        self._check(len(self.members), "have sent masked updates")
        return write_clients(self.members)

    def add_revealed(self, client: int, answer: bytes) -> None:
        if len(answer) != SECRET * len(self._letters):
            raise FederationError(f"client {client} revealed {len(answer)} bytes of shares")
        parts = range(0, len(answer), SECRET)
        self._revealed[client] = [answer[start : start + SECRET] for start in parts]

    def total(self) -> np.ndarray:
        """Return the sum modulo 2^bits of the members' vectors, uint64 (size,)."""
        self._check(len(self._revealed), "have revealed their shares")
        total = self._total
        for index, client in enumerate(sorted(self._letters)):
            secret = self._joined(index)
            if client in self.members:
                if commitment(secret, self._purpose) != self._commitments[client]:
                    raise _wrong_shares(client)
                total = total - mask(secret, self._size)
                continue
            pair = KeyPair(secret)
            if pair.public != self._keys[client][:SECRET]:
                raise _wrong_shares(client)
            for other in self.members:
                key = pair_secret(pair, client, self._keys, other, self._purpose)
                left = mask(key, self._size)  # in the sum, with the other's sign
                total = total - left if other < client else total + left
        return total & np.uint64(2**self._bits - 1)

    def _joined(self, index: int) -> bytes:
        """Return the secret of the client at an index, by the first shares of it."""
        holders = sorted(self._keys)
        revealed = sorted(self._revealed)[: self.needed]
        return join_secret({holders.index(c): self._revealed[c][index] for c in revealed})

    def _check(self, count: int, what: str) -> None:
        if count < self.needed:
            raise FederationError(
                f"a secure sum needs {self.needed} clients, but only {count} {what}"
            )


def _wrong_shares(client: int) -> FederationError:
    return FederationError(f"what was revealed of client {client}'s secret does not fit: no sum")
