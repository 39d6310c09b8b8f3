"""Every message of the ledger and everything that reads foreign bytes: bent, filled with garbage, and bombs.

Instances of each message class are made from its own types and limits, so a new class is tested by being
there. Garbage goes inside valid frames: random bytes never get past a length check.
"""

from __future__ import annotations

import importlib
import pkgutil
import time
import tracemalloc
from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import ainp2p.ledger
from ainp2p.errors import Error, Malformed
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.rules.merkle import root_from_path
from ainp2p.ledger.rules.operations import SignedOperation, parse
from ainp2p.ledger.serving.messages import read_question
from ainp2p.ledger.serving.reconcile import ReconcileIndex, Reconciler
from ainp2p.ledger.voting.attested import Attested, attest, verify_attested
from ainp2p.ledger.voting.certificate import (
    build_certificate,
    read_certificate,
    verify_certificate,
    verify_prepared,
)
from ainp2p.ledger.voting.evidence import is_malformed, read_evidence, verify_evidence
from ainp2p.ledger.voting.handoff import Leaving, check_handoff, make_handoff, read_page
from ainp2p.ledger.voting.justification import (
    Justification,
    Proof,
    read_certified,
    read_justification,
    verify,
)
from ainp2p.ledger.voting.votelog import ENTRIES_MAX, open_batch, read_batch, read_entries, read_votes
from ainp2p.ledger.wallets.bundle import judge as judge_bundle
from ainp2p.ledger.wallets.bundle import pack
from ainp2p.protocol.codec import ELEMENTS_MAX, FRAME_SIZE_MAX, Message, decode, encode, fast_decoder
from tests.ledger.accused import (
    COMMITTEE,
    EPOCH,
    FIRST,
    NETWORK,
    OBJECT,
    SECOND,
    SEQ,
    WORLD,
    Log,
    commit,
    id_of,
    lock,
    newview,
    refund,
)
from tests.ledger.offences import GUILTY

TYPED = (Error,)  # whose fault it is can be seen from the class
MEMORY_MAX = 2 << 20  # bytes, for any frame
BOMBS = [
    pytest.param(b"\xdd\xff\xff\xff\xff", id="an array of 2^32 elements"),
    pytest.param(b"\xdc\xff\xff" + b"\x90" * 60_000, id="60,000 empty arrays"),
    pytest.param(b"\xc6\xff\xff\xff\xff" + b"x" * 100, id="4 GiB of bytes announced"),
    pytest.param(b"\x91" * 60_000, id="60,000 levels"),
    pytest.param(b"\xdf\xff\xff\xff\xff", id="a map of 2^32 pairs"),
    pytest.param(b"\xdb\xff\xff\xff\xff", id="a text of 4 GiB"),
    pytest.param(b"\xc9\xff\xff\xff\xff\x01", id="an extension of 4 GiB"),
    pytest.param(b"\xdc\x04\x00" + b"\xc0" * 1024, id="an array of 1,024 nils"),
    pytest.param(b"\x9f" + b"\xdd\x00\x00\xff\xff" * 15, id="arrays that announce and do not hold"),
    pytest.param(b"", id="nothing"),
]


def message_classes() -> list[type[Message]]:
    """All that are defined in the ledger."""
    found: dict[str, type[Message]] = {}
    for info in pkgutil.walk_packages(ainp2p.ledger.__path__, "ainp2p.ledger."):
        module = importlib.import_module(info.name)
        for each in vars(module).values():
            if isinstance(each, type) and issubclass(each, Message) and each.__module__ == module.__name__:
                found[f"{info.name}.{each.__name__}"] = each
    return [found[name] for name in sorted(found)]


CLASSES = message_classes()
NAMES = [f"{each.__module__.rpartition('.')[2]}.{each.__name__}" for each in CLASSES]


# --- any instance of any message ----------------------------------------------------------------------


def values(info: Any) -> st.SearchStrategy[Any]:
    """Values of a type as msgspec sees it, small and at its limits."""
    if isinstance(info, msgspec.inspect.IntType):
        low, high = info.ge or 0, info.le if info.le is not None else 2**63 - 1
        high = high if info.lt is None else info.lt - 1
        return st.sampled_from([low, high]) | st.integers(low, high)
    if isinstance(info, msgspec.inspect.BytesType):
        low = info.min_length or 0
        high = min(info.max_length if info.max_length is not None else 40, max(low, 40))
        return st.binary(min_size=low, max_size=high)
    if isinstance(info, msgspec.inspect.VarTupleType):
        low = info.min_length or 0
        high = max(low, 2) if info.max_length is None else min(info.max_length, max(low, 2))
        return st.lists(values(info.item_type), min_size=low, max_size=high).map(tuple)
    if isinstance(info, msgspec.inspect.TupleType):
        return st.tuples(*map(values, info.item_types))
    if isinstance(info, msgspec.inspect.UnionType):
        return st.one_of(*map(values, info.types))
    if isinstance(info, msgspec.inspect.NoneType):
        return st.none()
    if isinstance(info, msgspec.inspect.StructType):
        return instances(info.cls)
    raise AssertionError(f"a message has a field of {info}: integers, bytes, tuples and messages travel")


@cache
def instances(cls: type[Message]) -> st.SearchStrategy[Any]:
    fields = msgspec.inspect.type_info(cls).fields  # type: ignore[attr-defined]
    return st.builds(cls, **{field.name: values(field.type) for field in fields})


@pytest.mark.parametrize("cls", CLASSES, ids=NAMES)
@given(data=st.data())
@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
def test_e2_a_message_travels_and_a_bent_one_is_malformed_or_canonical(
    cls: type[Message], data: st.DataObject
) -> None:
    raw = encode(data.draw(instances(cls)))
    assert encode(decode(raw, cls)) == raw
    bent = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(bent) - 1))
        change = data.draw(st.sampled_from(["set", "cut", "insert", "repeat"]))
        if change == "set":
            bent[at] = data.draw(st.integers(0, 255))
        elif change == "insert":
            bent[at:at] = data.draw(st.binary(min_size=1, max_size=5))
        elif change == "repeat":
            bent[at:at] = bent[at : at + 40]
        elif len(bent) > 1:
            del bent[at]
    quick = fast_decoder(cls)
    for read in (quick, lambda each: decode(each, cls)):
        try:
            assert encode(read(bytes(bent))) == bytes(bent)
        except Malformed:
            continue


@pytest.mark.parametrize("bomb", BOMBS)
def test_e2_no_message_class_is_blown_up_by_a_frame(bomb: bytes) -> None:
    tracemalloc.start()
    began = time.process_time()
    try:
        for cls in CLASSES:
            for raw in (bomb, b"\x92\x01" + bomb, b"\x97\x01" + bomb):
                with pytest.raises(Malformed):
                    decode(raw, cls)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MEMORY_MAX
    assert time.process_time() - began < 20  # hundreds of frames; each of them is some milliseconds at most


@pytest.mark.parametrize("cls", CLASSES, ids=NAMES)
def test_e2_what_is_above_a_frame_is_not_even_looked_at(cls: type[Message]) -> None:
    with pytest.raises(Malformed):
        decode(b"\x90" * (FRAME_SIZE_MAX + 1), cls)


@pytest.mark.parametrize("cls", CLASSES, ids=NAMES)
def test_a_message_holds_nothing_but_integers_bytes_and_messages(cls: type[Message]) -> None:
    assert instances(cls) is not None


# --- everything that reads ----------------------------------------------------------------------------

FULL = Log().says(*(lock(FIRST), commit(FIRST), newview(2)), *[commit(SECOND, i) for i in range(60)])
BATCHES = {member: Log(member).says(lock(FIRST), commit(FIRST), newview(1)) for member in range(4)}


def certificate(position: int) -> bytes:
    return build_certificate([(m, 1, position) for m in range(3)], lambda m, _: BATCHES[m], COMMITTEE)


PROOFS = (Proof(id_of(FIRST), FIRST.signatures, None),)
JUSTIFICATION = encode(
    Justification(EPOCH, OBJECT, SEQ, 1, tuple(attest(BATCHES[m], 2) for m in range(3)), None, PROOFS)
)
LEAVING = Leaving({OBJECT: (1, id_of(FIRST))}, {(bytes(32), 1): certificate(0)}, {})
HANDOFF = make_handoff(NETWORK, EPOCH, bytes(32), 1, 4, LEAVING)[0]
INDEX = ReconcileIndex((i.to_bytes(32, "big"), bytes(40)) for i in range(99))
RANGES = Reconciler(INDEX).initiate()


def committee_of(_: int) -> Any:
    return COMMITTEE


READERS: dict[str, tuple[bytes, Callable[[bytes], Any]]] = {
    "an operation": (FIRST.raw, lambda raw: parse(SignedOperation(raw, FIRST.signatures, None))),
    "an operation on a Lock": (refund().raw, lambda raw: parse(SignedOperation(raw, (), None))),
    "a signed operation": (encode(FIRST), lambda raw: parse(decode(raw, SignedOperation))),
    "malformed bytes": (FIRST.raw, is_malformed),
    "a batch": (FULL.raw, lambda raw: open_batch(raw, NETWORK, EPOCH, COMMITTEE)),
    "a batch's header": (FULL.raw, read_batch),
    "votes": (FULL.entries, read_votes),
    "entries": (FULL.entries, read_entries),
    "an attested entry": (
        encode(attest(FULL, 2)),
        lambda raw: verify_attested(decode(raw, Attested), NETWORK, EPOCH, COMMITTEE),
    ),
    "a path": (FULL.path(7), lambda raw: root_from_path(b"leaf", 7, 63, raw)),
    "a commit certificate": (
        certificate(1),
        lambda raw: verify_certificate(raw, COMMITTEE, EPOCH, NETWORK),
    ),
    "a prepared certificate": (certificate(0), lambda raw: verify_prepared(raw, COMMITTEE, EPOCH, NETWORK)),
    "a certificate": (certificate(0), read_certificate),
    "a justification": (
        JUSTIFICATION,
        lambda raw: verify(read_justification(raw), NETWORK, COMMITTEE),
    ),
    "a certificate that travels": (b"\x92\x02\xc4\x03abc", read_certified),
    "a HANDOFF": (
        HANDOFF,
        lambda raw: check_handoff(raw, NETWORK, EPOCH, bytes(32), [], committee_of),
    ),
    "a page": (b"\x92\x05\x91\x93\xc4 " + bytes(32) + b"\x01\xc4\x03abc", read_page),
    "a genesis": (encode(WORLD.genesis), Genesis.from_bytes),
    "ranges": (RANGES, Reconciler(INDEX).respond),
    "a bundle": (pack(encode(WORLD.genesis), [], []), judge_bundle),
    **{
        f"evidence of {name}": (
            encode(evidence),
            lambda raw: verify_evidence(read_evidence(raw), NETWORK, committee_of),
        )
        for name, evidence in GUILTY.items()
    },
}


@pytest.mark.parametrize("name", READERS)
def test_every_reader_reads_what_it_should(name: str) -> None:
    raw, read = READERS[name]
    read(raw)


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_e2_a_reader_of_bent_bytes_raises_typed_errors_only(name: str, data: st.DataObject) -> None:
    raw, read = READERS[name]
    bent = bytearray(raw)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, max(len(bent) - 1, 0)))
        bent[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    try:
        read(bytes(bent))
    except TYPED:
        return


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("bomb", BOMBS)
def test_e2_a_reader_is_not_blown_up(name: str, bomb: bytes) -> None:
    raw, read = READERS[name]
    tracemalloc.start()
    try:
        for each in (bomb, raw[:2] + bomb, raw[: len(raw) // 2] + bomb, raw + bomb):
            try:
                read(each)
            except TYPED:
                continue
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < MEMORY_MAX


@given(st.binary(max_size=300))
@settings(max_examples=40, deadline=None)
def test_e2_garbage_inside_a_question_is_malformed_or_a_question(body: bytes) -> None:
    for tag in range(64):
        for frame in (bytes([0x92, tag]) + encode(body), bytes([0x93, tag]) + encode(body) + b"\x01"):
            try:
                assert encode(read_question(frame)) == frame
            except Malformed:
                continue


@given(st.lists(st.sampled_from(range(8)), max_size=ENTRIES_MAX), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_e2_entries_of_any_kinds_are_split_in_one_way(kinds: list[int], rng: Any) -> None:
    entries = b"".join(bytes([kind]) + rng.randbytes(rng.choice([32, 36, 68, 108, 112])) for kind in kinds)
    try:
        votes = read_votes(entries)
    except Malformed:
        with pytest.raises(Malformed):
            read_entries(entries)
        return
    try:
        assert len(read_entries(entries)) == len(votes)
    except Malformed:
        return  # a field that contradicts another


# --- planted faults -----------------------------------------------------------------------------------


def test_mutant_a_decoder_without_limits_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ainp2p.protocol.codec._check_headers", lambda _: None)
    monkeypatch.setattr("ainp2p.protocol.codec.ELEMENTS_MAX", 1 << 20)
    arrays = b"\xdc\xea\x60" + b"\x90" * 60_000
    tracemalloc.start()
    try:
        with pytest.raises(Malformed):
            decode(arrays, CLASSES[0])
        assert tracemalloc.get_traced_memory()[1] > MEMORY_MAX
    finally:
        tracemalloc.stop()
    assert ELEMENTS_MAX == 1024


def test_mutant_a_reader_that_lets_a_foreign_error_out_is_noticed() -> None:
    def careless(raw: bytes) -> int:
        return raw[200]

    with pytest.raises(IndexError):
        careless(READERS["a path"][0])
