"""What is said on ``/ainp2p/checkpoint/1``: leaves of the state with which an epoch began, with their proofs.

    request   GetLeafProofs → LeafProofs     wallet → validator
    stream    FetchCheckpoint → CheckpointPage …, until one that is empty

A COMMITTEE carries the root over all leaves, so an answer is checked against the chain of COMMITTEEs alone,
and each page of leaves by itself: nobody has to take a million of them before the first false one is found.
Who has taken some already says so, and is sent the rest, by whomever it asks.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from ainp2p.ledger.rules.merkle import HASH_SIZE
from ainp2p.ledger.rules.state_tree import BURNT, LEAF_SIZE_MAX, StateProof
from ainp2p.ledger.serving.messages import OPERATIONS_MAX, Decided
from ainp2p.protocol.codec import Message, Uint, decode

CHECKPOINT_PROTOCOL = "/ainp2p/checkpoint/1"

BODY_SIZE_MAX = 512 * 1024  # bytes of one message here
PROOFS_MAX = 64  # asked for at once
LEAVES_MAX = 512  # in one page; as they are encoded, so that each counts as one element of a message
BEGUN_MAX = 2  # checkpoints of which the asker has a part

RawLeaf = Annotated[bytes, msgspec.Meta(min_length=1, max_length=LEAF_SIZE_MAX + 64)]
LeafKind = Annotated[int, msgspec.Meta(ge=0, le=BURNT)]


class LeafName(Message, frozen=True):
    """One object of a state, as `state_tree.Leaf` names it."""

    kind: LeafKind
    id: Annotated[bytes, msgspec.Meta(min_length=32, max_length=34)]


class GetLeafProofs(Message, frozen=True, tag=1):
    """Prove these objects as they were at the newest checkpoint."""

    leaves: Annotated[tuple[LeafName, ...], msgspec.Meta(min_length=1, max_length=PROOFS_MAX)]


class Begun(Message, frozen=True):
    """What somebody has taken, and proven, of the checkpoint with which `epoch` began.

    Attributes:
        leaves: how many, from the first one on.
        object: of the last kept operation; empty where there is none.
        seq: of that operation.
    """

    epoch: Uint
    leaves: Uint
    object: Annotated[bytes, msgspec.Meta(max_length=32)] = b""
    seq: Uint = 0


class FetchCheckpoint(Message, frozen=True, tag=2):
    """Stream the newest checkpoint after this epoch: the System's operations, all leaves, what is kept.

    Attributes:
        after: nothing is sent if there is no later one.
        system: how many of the System's operations the asker has.
        begun: of which checkpoints it has a part; of these only the rest is sent.
    """

    after: Uint
    system: Uint = 0
    begun: Annotated[tuple[Begun, ...], msgspec.Meta(max_length=BEGUN_MAX)] = ()


class LeafProofs(Message, frozen=True, tag=3):
    """Answers GetLeafProofs in the order of the question, None for what was not there; may stop early.

    `epoch` is the one whose COMMITTEE carries the root.
    """

    epoch: Uint
    proofs: Annotated[tuple[StateProof | None, ...], msgspec.Meta(max_length=PROOFS_MAX)]


class CheckpointPage(Message, frozen=True, tag=4):
    """One chunk of FetchCheckpoint; one of the three lists has something, in the last chunk none.

    Attributes:
        epoch: that began with this checkpoint.
        n: how many operations were decided up to its COMMITTEE, as this validator says.
        system: END-EPOCHs and COMMITTEEs from the first on up to the one that opened the epoch.
        leaves: each encoded, in the order of the tree.
        kept: last operations on accounts and open Locks, and those that opened these Locks, in order of
            object and seq.
        index: of the first of these leaves in the tree.
        count: leaves of the whole tree.
        path: what proves these leaves under the COMMITTEE's state root, beside themselves: on each level up
            to the root the node left of them and the node right of them, where a parent needs it.
    """

    epoch: Uint
    n: Uint
    system: Annotated[tuple[Decided, ...], msgspec.Meta(max_length=OPERATIONS_MAX)] = ()
    leaves: Annotated[tuple[RawLeaf, ...], msgspec.Meta(max_length=LEAVES_MAX)] = ()
    kept: Annotated[tuple[Decided, ...], msgspec.Meta(max_length=OPERATIONS_MAX)] = ()
    index: Uint = 0
    count: Uint = 0
    path: Annotated[bytes, msgspec.Meta(max_length=2 * 64 * HASH_SIZE)] = b""

    @property
    def is_last(self) -> bool:
        """Whether nothing follows."""
        return not (self.system or self.leaves or self.kept)


Question = GetLeafProofs | FetchCheckpoint


def read_question(body: bytes) -> Question:
    """One message to a validator.

    Raises:
        Malformed: it is none, or beyond a limit.
    """
    return decode(body, Question, size_max=BODY_SIZE_MAX)  # type: ignore[arg-type]  # a union is no type[T]
