"""A client's half of secure aggregation: its vector leaves masked, and only the sum is unmasked."""

from __future__ import annotations

import numpy as np

from fedtt_lightning.errors import FederationError
from fedtt_lightning.silo.secure_crypto import (
    KeyPair,
    commitment,
    mask,
    new_secret,
    seal,
    split_secret,
    unseal,
)
from fedtt_lightning.silo.secure_letters import (
    LETTER,
    SECRET,
    read_book,
    read_clients,
    read_records,
    write_integers,
    write_records,
)

PURPOSE = b"fedtt-lightning secure sum\0"
"""What secrets are for, in front of the run's and round's own."""


class SecureClient:
    """One client in one round of the protocol of Bonawitz et al. (CCS 2017), double masks and all.

    Each method answers one message of the server, once and in their order: `keys`, `share`,
    `masked`, `reveal`. What is sent is `x + PRG(b) ± PRG(s_j)` modulo 2^bits, `b` being a seed of
    the client's own and `s_j` what it and each other client agree on. Of another client it reveals
    either its share of `b`, if that one's vector is in the sum, or of its private key, never both.
    Keys and seeds are new in each round and in memory only: a client that restarts is out of it.

    This is private against a server that follows the protocol and whoever sees its memory, also
    with fewer than `needed` clients on its side; not against one that hands out false public keys.

    Args:
        client: its number.
        clients: how many there are; others' numbers are below.
        purpose: names run and round; all secrets are bound to it.
        fewest: clients whose sum this one lets the server know.
    """

    def __init__(self, client: int, clients: int, purpose: bytes, fewest: int = 2) -> None:
        self.client, self._clients, self._fewest = client, clients, max(2, fewest)
        self._purpose = PURPOSE + purpose
        self._masking, self._sealing = KeyPair(), KeyPair()
        self._seed = new_secret()
        self._stage = 0
        self._needed = 0
        self._book: dict[int, bytes] = {}
        self._held: dict[int, bytes] = {}  # shares of each client's seed and private key

    def keys(self) -> bytes:
        """Return the public keys, 64 bytes."""
        self._begin(0)
        return self._masking.public + self._sealing.public

    def share(self, book: bytes) -> bytes:
        """Split the secrets among those in the book of public keys.

        Raises:
            FederationError: also below, of what an honest server never sends; nothing is revealed.
        """
        self._begin(1)
        needed, keys = read_book(book)
        if keys.get(self.client) != self._masking.public + self._sealing.public:
            raise FederationError("the book of secure aggregation lacks this client's own keys")
        if max(keys) >= self._clients:
            raise FederationError(
                f"the book of secure aggregation names client {max(keys)} of {self._clients}"
            )
        public = [key for pair in keys.values() for key in (pair[:SECRET], pair[SECRET:])]
        if len(set(public)) < len(public):
            raise FederationError("the book of secure aggregation holds a public key twice")
        # Then two sums over different clients, both above the threshold, have a client in common.
        if not max(self._fewest, len(keys) // 2 + 1) <= needed <= len(keys):
            raise FederationError(
                f"a secure sum of {len(keys)} clients needs more than half of them and "
                f"{self._fewest} or more, not {needed}"
            )
        self._needed, self._book = needed, keys
        order = sorted(keys)
        seeds = split_secret(self._seed, needed, len(order))
        private = split_secret(self._masking.secret, needed, len(order))
        letters = {}
        for other, text in zip(order, map(bytes.__add__, seeds, private), strict=True):
            if other == self.client:
                self._held[other] = text
            else:
                letters[other] = seal(self._letter_key(self.client, other), text, self._purpose)
        return commitment(self._seed, self._purpose) + write_records(letters)

    def masked(self, mail: bytes, values: np.ndarray, bits: int) -> bytes:
        """Return the vector under all masks, given the letters of those who share masks.

        Args:
            values: uint64 (n,), each below 2^bits.
        """
        self._begin(2)
        letters = read_records(mail, LETTER)
        self._check_members({*letters, self.client}, self._book, "share")
        for other, letter in letters.items():
            key = self._letter_key(other, self.client)
            self._held[other] = unseal(key, letter, self._purpose)
        total = values + mask(self._seed, len(values))
        for other in letters:
            secret = pair_secret(self._masking, self.client, self._book, other, self._purpose)
            pair = mask(secret, len(values))
            total = total + pair if self.client < other else total - pair
        return write_integers(total & np.uint64(2**bits - 1), bits)

    def reveal(self, survivors: bytes) -> bytes:
        """Return a share of each member's seed, or private key if its vector is not in the sum."""
        self._begin(3)
        members = read_clients(survivors)
        self._check_members(members, self._held, "sum")
        if self.client not in members:
            raise FederationError("this client's vector is not in the secure sum it is to unmask")
        return b"".join(
            text[:SECRET] if other in members else text[SECRET:]
            for other, text in sorted(self._held.items())
        )

    def _begin(self, stage: int) -> None:
        """Enter a stage, which then is over for good, also when it ends in an error."""
        if self._stage != stage:
            raise FederationError(
                f"stage {stage + 1} of secure aggregation was asked for out of turn: each is gone "
                "through once a round, in order"
            )
        self._stage += 1

    def _check_members(self, members: set[int], known: dict[int, bytes], what: str) -> None:
        if strangers := members - known.keys():
            raise FederationError(
                f"the {what} of secure aggregation names client {min(strangers)}, who has no part"
            )
        if len(members) < self._needed:
            raise FederationError(
                f"the {what} of secure aggregation has {len(members)} clients, but needs "
                f"{self._needed}"
            )

    def _letter_key(self, sender: int, receiver: int) -> bytes:
        """Return the key of the one letter between two clients, of which this is one."""
        other = receiver if sender == self.client else sender
        purpose = self._purpose + b"\0letter %d %d" % (sender, receiver)
        return self._sealing.agree(self._book[other][SECRET:], purpose)


def pair_secret(
    pair: KeyPair, client: int, book: dict[int, bytes], other: int, purpose: bytes
) -> bytes:
    """Return what a client, by its private key, and another agree on for their mask."""
    first, second = sorted((client, other))
    return pair.agree(book[other][:SECRET], purpose + b"\0mask %d %d" % (first, second))
