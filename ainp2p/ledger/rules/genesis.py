"""The genesis of a network: parameters, first committee, first grants. Its hash is the network's id.

The genesis file is the message's canonical MessagePack, nothing else. Grants name inceptions, not
account ids, since an account's id depends on the network's.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from ainp2p.errors import InvalidInput, Malformed
from ainp2p.ledger.rules.amounts import AMOUNT_MAX
from ainp2p.ledger.rules.operations import Inception, account_id
from ainp2p.ledger.rules.parameters import DEVELOPMENT as DEVELOPMENT
from ainp2p.ledger.rules.parameters import PRODUCTION as PRODUCTION
from ainp2p.ledger.rules.parameters import VALIDATORS_MAX as VALIDATORS_MAX
from ainp2p.ledger.rules.parameters import Parameters as Parameters
from ainp2p.ledger.rules.parameters import check_parameters
from ainp2p.protocol.codec import FRAME_SIZE_MAX, Bytes32, Message, Text, Uint, decode, encode
from ainp2p.protocol.identity import digest

GENESIS_VERSION = 1
GRANTS_MAX = 64
NAME_SIZE_MAX = 64
DEVELOPMENT_SUPPLY = 10**15  # uain
DEVELOPMENT_PURSE = 10**6  # uain, once per peer


class Member(Message, frozen=True):
    """A validator of the first committee: its key, its weight, and where it can be dialled."""

    key: Bytes32
    weight: Uint
    addresses: Annotated[tuple[Text, ...], msgspec.Meta(max_length=8)]


class Grant(Message, frozen=True):
    """A first credit, for the account that this inception opens."""

    inception: Inception
    amount: Uint


class Faucet(Message, frozen=True):
    """The key whose account hands out purses on a development network."""

    key: Bytes32
    purse: Uint  # uain, once per peer


class Genesis(Message, frozen=True):
    """The first document of a network. Make it with `new_genesis`, read it with `load`."""

    version: Uint
    name: Annotated[bytes, msgspec.Meta(min_length=1, max_length=NAME_SIZE_MAX)]
    created: Uint  # ms since 1970
    parameters: Parameters
    validators: Annotated[tuple[Member, ...], msgspec.Meta(min_length=1, max_length=VALIDATORS_MAX)]
    grants: Annotated[tuple[Grant, ...], msgspec.Meta(max_length=GRANTS_MAX)]
    faucet: Faucet | None

    @property
    def network_id(self) -> bytes:
        """The network's 32-byte id, in every operation, vote and receipt. Hashes each time: keep it."""
        return digest(b"ainp2p/network/1", encode(self))

    @property
    def is_development(self) -> bool:
        """Whether this network hands out money for nothing; everything printed should say so."""
        return self.faucet is not None

    @property
    def supply(self) -> int:
        """All uain that will ever exist here."""
        return sum(grant.amount for grant in self.grants)

    @property
    def faucet_account(self) -> bytes | None:
        """The account that the faucet spends from."""
        if self.faucet is None:
            return None
        inception = next(grant.inception for grant in self.grants if grant.inception.key == self.faucet.key)
        return account_id(self.network_id, inception)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Genesis:
        """Read and check a genesis.

        Raises:
            InvalidInput: not a genesis, or one that contradicts itself.
        """
        try:
            genesis = decode(raw, cls)
        except Malformed as exc:
            raise InvalidInput(f"not a genesis: {exc}") from exc
        check_genesis(genesis)
        return genesis

    @classmethod
    def load(cls, path: Path) -> Genesis:
        """Read and check a genesis file.

        Raises:
            InvalidInput: no such file, not a genesis, or one that contradicts itself.
        """
        try:
            with path.open("rb") as file:
                raw = file.read(FRAME_SIZE_MAX + 1)
        except OSError as exc:
            raise InvalidInput(f"cannot read the genesis file {path}: {exc.strerror}") from exc
        return cls.from_bytes(raw)

    def write(self, path: Path) -> None:
        """Write the genesis file, whole or not at all.

        Raises:
            InvalidInput: the path cannot be written.
        """
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        try:
            with partial.open("wb") as file:
                file.write(encode(self))
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except OSError as exc:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise InvalidInput(f"cannot write the genesis file {path}: {exc.strerror}") from exc


def new_genesis(
    name: str,
    created: int,
    validators: Sequence[tuple[bytes, int, Sequence[str]]],
    grants: Sequence[tuple[Inception, int]],
    faucet: Faucet | None,
    parameters: Parameters,
) -> Genesis:
    """Make a genesis from (key, weight, addresses) of each validator and (inception, uain) of each grant.

    Raises:
        InvalidInput: what is given contradicts itself.
    """
    members = [Member(key, weight, tuple(a.encode() for a in where)) for key, weight, where in validators]
    genesis = Genesis(
        version=GENESIS_VERSION,
        name=name.encode(),
        created=created,
        parameters=parameters,
        validators=tuple(sorted(members, key=lambda member: member.key)),
        grants=tuple(Grant(inception, amount) for inception, amount in grants),
        faucet=faucet,
    )
    return Genesis.from_bytes(encode(genesis))  # one set of checks, ranges and lengths included


def check_genesis(genesis: Genesis) -> None:
    """Check what the shape cannot say.

    Raises:
        InvalidInput: which rule it breaks.
    """
    keys = [member.key for member in genesis.validators]
    if genesis.version != GENESIS_VERSION:
        raise InvalidInput(f"genesis version {genesis.version}; this release knows {GENESIS_VERSION}")
    if keys != sorted(set(keys)):
        raise InvalidInput("validators are not sorted by key, or one is named twice")
    weights = [member.weight for member in genesis.validators]
    if 0 in weights or sum(weights) > AMOUNT_MAX:
        raise InvalidInput("each validator's weight is at least 1, and their sum below 2^63")
    if any(grant.amount == 0 for grant in genesis.grants) or genesis.supply > AMOUNT_MAX:
        raise InvalidInput("each grant is at least 1 uain, and their sum below 2^63")
    for grant in genesis.grants:
        guardians = grant.inception.guardians
        if list(guardians) != sorted(set(guardians)) or not min(
            1, len(guardians)
        ) <= grant.inception.m <= len(guardians):
            raise InvalidInput("a grant's inception has impossible guardians: nobody could ever spend it")
    if genesis.faucet is not None:
        if genesis.faucet.purse == 0:
            raise InvalidInput("a faucet's purse is at least 1 uain")
        if genesis.faucet.key not in {grant.inception.key for grant in genesis.grants}:
            raise InvalidInput("the faucet's key has no grant to spend from")
    check_parameters(genesis.parameters)
