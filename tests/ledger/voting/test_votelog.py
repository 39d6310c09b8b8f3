from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.errors import BadSignature, Error, InvalidOperation, Malformed
from ainp2p.ledger.rules.committee import Committee
from ainp2p.ledger.rules.merkle import MerkleTree
from ainp2p.ledger.voting.votelog import (
    BATCH_SIZE_MAX,
    BUSY_ENTRIES,
    BUSY_FLUSH_MS,
    BUSY_MS,
    COMMIT,
    EARLY_MAX,
    ENTRIES_MAX,
    FLUSH_AFTER_MS,
    GATHER_MS,
    HANDOFF,
    IDLE_AFTER_MS,
    LOCK,
    NEWVIEW,
    PROPOSE,
    SIGN_VOTES,
    Chain,
    Commit,
    Handoff,
    Header,
    Lock,
    NewView,
    OwnLog,
    Propose,
    SignedBatch,
    VoteBatch,
    commit_entry,
    entry_at,
    handoff_entry,
    lock_entry,
    newview_entry,
    open_batch,
    propose_entry,
    read_batch,
    read_entries,
    read_votes,
    reopen_batch,
    sign_batch,
    split_entries,
)
from ainp2p.protocol.codec import encode
from ainp2p.protocol.identity import Key, digest
from tests.ledger.world import NOW, key_of

NETWORK = digest(b"test", b"network")
KEY = key_of("validator")
OP, OTHER, WHY = bytes([1]) * 32, bytes([2]) * 32, bytes([3]) * 32
COMMITTEE = Committee(tuple(sorted((KEY.public, key_of("second").public))), (1, 2))
MEMBER = COMMITTEE.index[KEY.public]
ENTRIES = [lock_entry(0, OP), commit_entry(0, OP), lock_entry(3, OTHER, WHY)]


def batch(leaves: list[bytes] = ENTRIES, key: Key = KEY, **fields: object) -> VoteBatch:
    """A good batch, but for `fields` of its header."""
    header = Header(
        version=1,
        network=NETWORK,
        epoch=0,
        validator=key.public,
        height=1,
        previous=NETWORK,
        timestamp=NOW,
        root=MerkleTree(leaves).root,
        count=len(leaves),
    )
    return sign_batch(msgspec.structs.replace(header, **fields), leaves, key, MEMBER)


def signed_anyway(leaves: list[bytes]) -> bytes:
    """A batch of records that are none, with the header and the signature that would fit them."""
    header = msgspec.structs.replace(batch().header, root=MerkleTree(leaves).root, count=len(leaves))
    encoded = encode(header)
    return encode(SignedBatch(encoded, KEY.sign(SIGN_VOTES, encoded), b"".join(leaves)))


def opened(raw: bytes) -> VoteBatch:
    return open_batch(raw, NETWORK, 0, COMMITTEE)


# --- entries ------------------------------------------------------------------------------------


def test_entries_say_what_was_written() -> None:
    entries = b"".join(ENTRIES)
    assert read_votes(entries) == [(LOCK, 0, OP), (COMMIT, 0, OP), (LOCK, 3, OTHER)]
    assert split_entries(entries) == ENTRIES
    assert [entry_at(entries, i) for i in range(3)] == [
        ((LOCK, 0, OP), None),
        ((COMMIT, 0, OP), None),
        ((LOCK, 3, OTHER), WHY),
    ]
    assert entry_at(ENTRIES[0] + ENTRIES[1], 1) == ((COMMIT, 0, OP), None)


def test_every_kind_of_entry_says_what_was_written_and_keeps_its_place() -> None:
    records = [
        lock_entry(1, OP, WHY),
        newview_entry(2, OTHER, 7, (1, OP), None),
        newview_entry(1, OTHER, 7, None, OP),
        propose_entry(2, OP, WHY, OTHER, 7),
        handoff_entry(WHY),
        commit_entry(2, OP),
    ]
    entries = b"".join(records)
    assert read_entries(entries) == [
        Lock(1, OP, WHY),
        NewView(2, OTHER, 7, 1, OP, None),
        NewView(1, OTHER, 7, None, None, OP),
        Propose(2, OP, WHY, OTHER, 7),
        Handoff(WHY),
        Commit(2, OP),
    ]
    assert [kind for kind, _, _ in read_votes(entries)] == [LOCK, NEWVIEW, NEWVIEW, PROPOSE, HANDOFF, COMMIT]
    assert split_entries(entries) == records


@pytest.mark.parametrize(
    "record",
    [
        pytest.param(newview_entry(2, OTHER, 7, (2, OP), None), id="prepared in a view that is not over"),
        pytest.param(newview_entry(2, OTHER, 7, (1, bytes(32)), None), id="prepared without an operation"),
        pytest.param(newview_entry(2, OTHER, 7, (-1, OP), None), id="an operation prepared in no view"),
    ],
)
def test_a_newview_that_contradicts_itself_is_malformed(record: bytes) -> None:
    with pytest.raises(Malformed):
        read_entries(record)


entry = st.one_of(
    st.builds(
        newview_entry,
        st.integers(2, 9),
        st.just(OTHER),
        st.just(1),
        st.sampled_from([None, (1, OP)]),
        st.just(OP),
    ),
    st.builds(propose_entry, st.integers(2, 9), st.just(OP), st.just(WHY), st.just(OTHER), st.just(1)),
    st.builds(handoff_entry, st.binary(min_size=32, max_size=32)),
    st.builds(lock_entry, st.integers(0, 2**32 - 1), st.binary(min_size=32, max_size=32)),
    st.builds(commit_entry, st.integers(0, 2**32 - 1), st.binary(min_size=32, max_size=32)),
    st.builds(lock_entry, st.integers(0, 9), st.binary(min_size=32, max_size=32), st.just(WHY)),
)


@given(st.lists(entry, max_size=20))
def test_any_list_of_entries_splits_in_one_way(entries: list[bytes]) -> None:
    assert split_entries(b"".join(entries)) == entries
    assert len(read_votes(b"".join(entries))) == len(entries)


@given(st.binary(max_size=150))
def test_bytes_are_entries_or_malformed_and_the_bulk_way_agrees(data: bytes) -> None:
    try:
        records = split_entries(data)
    except Malformed:
        with pytest.raises(Malformed):
            read_votes(data)
    else:
        assert b"".join(records) == data
        votes = [vote for vote in read_votes(data) if vote[0] <= COMMIT]
        assert [vote[2] for vote in votes] == [record[5:37] for record in records if record[0] <= 3]


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x00" + ENTRIES[0][1:], id="kind 0"),
        pytest.param(b"\x04" + ENTRIES[0][1:], id="cut off within a NEWVIEW"),
        pytest.param(b"\x07" + ENTRIES[0][1:], id="an unknown kind"),
        pytest.param(ENTRIES[0][:-1], id="cut off"),
        pytest.param(ENTRIES[0] + b"\x01", id="one byte more"),
        pytest.param(ENTRIES[2][:40], id="a justification cut off"),
        pytest.param(b"\x01" + ENTRIES[2][1:], id="a justification without its kind"),
    ],
)
def test_entries_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        split_entries(data)


# --- batches ------------------------------------------------------------------------------------


def test_a_batch_arrives_as_it_was_sealed() -> None:
    sent = batch()
    got = opened(sent.raw)
    assert (got.id, got.member, got.votes, got.header) == (sent.id, MEMBER, sent.votes, sent.header)
    assert reopen_batch(sent.raw, COMMITTEE).id == sent.id
    assert read_batch(sent.raw)[1] == sent.header


def test_an_empty_batch_is_a_sign_of_life() -> None:
    assert opened(batch([]).raw).votes == []


def test_the_largest_batch_fits() -> None:
    raw = batch([lock_entry(9, bytes([i]) * 32, WHY) for i in range(ENTRIES_MAX)]).raw
    assert len(raw) < BATCH_SIZE_MAX
    assert len(opened(raw).votes) == ENTRIES_MAX


STRANGER = key_of("stranger")


@pytest.mark.parametrize(
    ("make", "rule"),
    [
        pytest.param(lambda: batch(version=2), "version", id="unknown version"),
        pytest.param(lambda: batch(network=bytes(32)), "network", id="another network"),
        pytest.param(lambda: batch(epoch=1), "epoch", id="another epoch"),
        pytest.param(lambda: batch(key=STRANGER), "member", id="not a member"),
    ],
)
def test_a_batch_of_elsewhere_is_refused(make: Callable[[], VoteBatch], rule: str) -> None:
    with pytest.raises(InvalidOperation) as caught:
        opened(make().raw)
    assert caught.value.rule == rule


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(batch(root=bytes(32)).raw, id="another root"),
        pytest.param(batch(count=2).raw, id="another count"),
        pytest.param(batch(count=ENTRIES_MAX + 1).raw, id="too many entries"),
        pytest.param(batch([commit_entry(0, OP)] * (ENTRIES_MAX + 1)).raw, id="really too many entries"),
        pytest.param(batch(height=0).raw, id="height 0"),
        pytest.param(signed_anyway([b"\x04" + bytes(36)]), id="a reserved kind, well signed"),
        pytest.param(signed_anyway([ENTRIES[0][:-1]]), id="an entry cut off, well signed"),
        pytest.param(batch().raw[:-1], id="cut off"),
        pytest.param(batch().raw + b"\0", id="a byte more"),
        pytest.param(bytes([0x93, 0xC6, 0x7F, 0xFF, 0xFF, 0xFF]), id="a lie about its length"),
        pytest.param(b"\x91" * 1_000, id="nested deep"),
    ],
)
def test_a_malformed_batch_is_refused(raw: bytes) -> None:
    with pytest.raises(Malformed):
        opened(raw)


def test_entries_are_bound_by_the_signature() -> None:
    good = batch([lock_entry(0, OP)])
    signed = msgspec.msgpack.decode(good.raw)
    with pytest.raises(Malformed):
        opened(encode(SignedBatch(signed[0], signed[1], lock_entry(0, OTHER))))


# E12: libsodium's strict rules, the same verdict from every way in.
L = 2**252 + 27742317777372353535851937790883648493
SMALL_ORDER = bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f")


def forgeries() -> list[tuple[str, Callable[[bytes, bytes], bytes]]]:
    def malleable(header: bytes, signature: bytes) -> bytes:
        s = int.from_bytes(signature[32:], "little") + L
        return signature[:32] + s.to_bytes(32, "little")

    return [
        ("wrong key", lambda header, signature: key_of("other").sign(b"ainp2p/votes/1", header)),
        ("another purpose", lambda header, signature: KEY.sign(b"ainp2p/op/1", header)),
        ("without a purpose", lambda header, signature: KEY.sign(b"", header)),
        ("another header", lambda header, signature: KEY.sign(b"ainp2p/votes/1", header + b"\0")),
        ("malleable S", malleable),
        ("zeros", lambda header, signature: bytes(64)),
        ("small order R", lambda header, signature: SMALL_ORDER + signature[32:]),
        ("one bit", lambda header, signature: bytes([signature[0] ^ 1]) + signature[1:]),
    ]


@pytest.mark.parametrize("forge", [pytest.param(f, id=name) for name, f in forgeries()])
def test_e12_a_forged_signature_of_votes_is_refused(forge: Callable[[bytes, bytes], bytes]) -> None:
    header, signature, entries = msgspec.msgpack.decode(batch().raw)
    with pytest.raises(BadSignature):
        opened(encode(SignedBatch(header, forge(header, signature), entries)))


@pytest.mark.parametrize("size", [0, 63, 65])
def test_e12_a_signature_of_another_length_is_malformed(size: int) -> None:
    header, signature, entries = msgspec.msgpack.decode(batch().raw)
    with pytest.raises(Malformed):
        opened(encode([header, (signature + b"\0")[:size], entries]))


def test_e12_a_small_order_key_signs_nothing() -> None:
    weak = Committee((SMALL_ORDER,), (1,))
    header = msgspec.structs.replace(batch().header, validator=SMALL_ORDER)
    raw = encode(SignedBatch(encode(header), SMALL_ORDER + bytes(32), b"".join(ENTRIES)))
    with pytest.raises(BadSignature):
        open_batch(raw, NETWORK, 0, weak)


def test_e12_mutant_without_verification_forgeries_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ainp2p.ledger.voting.votelog.verify", lambda *_: None)
    header, signature, entries = msgspec.msgpack.decode(batch().raw)
    for _, forge in forgeries():
        opened(encode(SignedBatch(header, forge(header, signature), entries)))


# --- chains -------------------------------------------------------------------------------------


def log_of(count: int, start: int = NOW) -> list[VoteBatch]:
    log = OwnLog(KEY, NETWORK, 0, MEMBER)
    batches = []
    for i in range(count):
        log.add(lock_entry(0, bytes([i]) * 32), start + i)
        batches.append(log.seal(start + i))
    return batches


def test_batches_in_any_order_come_out_in_their_own() -> None:
    one, two, three, four = log_of(4)
    chain = Chain(0, NETWORK, {})
    assert chain.add(three) == []
    assert chain.add(four) == []
    assert list(chain.missing) == [1, 2]
    assert chain.add(one) == [one]
    assert list(chain.missing) == [2]
    assert chain.add(two) == [two, three, four]
    assert (chain.height, chain.head, list(chain.missing)) == (4, four.id, [])


def test_what_comes_early_is_bounded() -> None:
    chain = Chain(0, NETWORK, {})
    for each in log_of(EARLY_MAX + 9)[1:]:
        chain.add(each)
    assert len(chain.early) == EARLY_MAX


def test_a_batch_of_another_chain_is_refused() -> None:
    one, two = log_of(2)
    elsewhere = log_of(2, NOW + 5)
    chain = Chain(0, NETWORK, {})
    chain.add(one)
    with pytest.raises(InvalidOperation) as caught:
        chain.add(elsewhere[1])
    assert caught.value.rule == "chain"
    assert chain.add(two) == [two]


def test_an_early_batch_of_another_chain_spoils_nothing() -> None:
    one, two, _ = log_of(3)
    chain = Chain(0, NETWORK, {})
    chain.add(log_of(3, NOW + 5)[2])
    assert chain.add(one) == [one]
    assert chain.add(two) == [two]
    assert chain.height == 2


def test_the_first_batch_follows_the_network() -> None:
    (one,) = log_of(1)
    with pytest.raises(InvalidOperation):
        Chain(0, bytes(32), {}).add(one)


# --- writing ------------------------------------------------------------------------------------


def test_a_batch_is_due_20_ms_after_the_one_before_30_after_a_large_one_or_when_full() -> None:
    log = OwnLog(KEY, NETWORK, 0, MEMBER)
    log.seal(NOW)
    assert log.due == NOW + IDLE_AFTER_MS
    log.add(ENTRIES[0], NOW + 5)
    log.add(ENTRIES[1], NOW + 9)
    assert log.due == NOW + FLUSH_AFTER_MS
    for _ in range(ENTRIES_MAX):
        log.add(ENTRIES[0], NOW + 10)
    assert log.due == 0
    sealed = log.seal(NOW + 10)
    assert (sealed.header.count, len(log)) == (ENTRIES_MAX, 2)
    assert log.due == NOW + 10 + BUSY_FLUSH_MS


def test_a_vote_after_a_pause_waits_only_for_those_that_come_with_it() -> None:
    log = OwnLog(KEY, NETWORK, 0, MEMBER)
    log.add(ENTRIES[0], NOW)
    assert log.due == NOW + FLUSH_AFTER_MS  # its first: others may just have begun
    log.seal(NOW + FLUSH_AFTER_MS)
    late = NOW + 500
    log.add(ENTRIES[1], late)
    log.add(ENTRIES[0], late + 1)
    assert log.due == late + GATHER_MS


@pytest.mark.parametrize(
    ("entries", "pause_ms", "due_ms"),
    [
        (BUSY_ENTRIES, 1, BUSY_FLUSH_MS),
        (BUSY_ENTRIES, BUSY_MS - 1, BUSY_FLUSH_MS),
        (BUSY_ENTRIES, BUSY_MS, GATHER_MS),
        (BUSY_ENTRIES - 1, BUSY_MS - 1, GATHER_MS),
        (BUSY_ENTRIES - 1, 1, FLUSH_AFTER_MS - 1),
    ],
)
def test_votes_that_come_quickly_are_gathered_for_longer(entries: int, pause_ms: int, due_ms: int) -> None:
    log = OwnLog(KEY, NETWORK, 0, MEMBER)
    for _ in range(entries):
        log.add(ENTRIES[0], NOW)
    log.seal(NOW)
    log.add(ENTRIES[1], NOW + pause_ms)
    assert log.due == NOW + pause_ms + due_ms


def test_a_log_goes_on_where_it_ended() -> None:
    one, two = log_of(2)
    log = OwnLog(KEY, NETWORK, 0, MEMBER)
    log.resume(one.header.height, one.id)
    log.add(lock_entry(0, bytes([1]) * 32), NOW + 1)
    assert log.seal(NOW + 1).raw == two.raw


@given(st.binary(max_size=400))
def test_garbage_in_a_valid_frame_is_refused_with_a_known_error(garbage: bytes) -> None:
    good = msgspec.msgpack.decode(batch().raw)
    for position in range(3):
        fields = [*good]
        fields[position] = garbage
        if fields == good:
            continue
        with pytest.raises(Error):
            opened(encode(fields))
