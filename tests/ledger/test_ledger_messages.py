"""The wire form of `/ainp2p/ledger/1`, one message of each kind as hex: a change of it is a choice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.errors import Malformed
from ainp2p.ledger.serving import messages as m
from ainp2p.ledger.voting.attachments import ATTACHMENT_SIZE_MAX
from ainp2p.protocol.codec import Message, decode, encode

A, B = b"a" * 32, b"b" * 32
CREDIT = A + b"\x00\x01"
DECIDED = m.Decided(b"op", b"cert")
VECTORS: list[tuple[Message, str]] = [
    (m.Submit((b"op",), 1), "930191c4026f7001"),
    (m.PushOperations((b"op", b"q")), "920292c4026f70c40171"),
    (m.PushBatch(b"batch"), "9203c4056261746368"),
    (m.FetchOperations((A,)), "920491c420" + "61" * 32),
    (m.FetchBatches(A, 7, 2), "9405c420" + "61" * 32 + "0702"),
    (m.GetObject(A), "9206c420" + "61" * 32),
    (m.GetCredits(A, b""), "9307c420" + "61" * 32 + "c400"),
    (m.GetHeights((b"/ip4",)), "920891c4042f697034"),
    (m.Follow((A, B)), "920992c420" + "61" * 32 + "c420" + "62" * 32),
    (m.AskStatus((A,)), "920a91c420" + "61" * 32),
    (m.GetStatistics(), "910b"),
    (m.PushAttachment(b"proof"), "920cc40570726f6f66"),
    (m.FetchAttachments((A,)), "920d91c420" + "61" * 32),
    (m.ListEvidence(7), "920e07"),
    (m.Reconcile(b"ranges"), "920fc40672616e676573"),
    (m.GetHistory((m.HistoryFrom(A, 2),)), "92109192c420" + "61" * 32 + "02"),
    (m.FetchDecided(7), "921107"),
    (m.ReconcileFrontier(A, b"ranges"), "9313c420" + "61" * 32 + "c40672616e676573"),
    (m.GetLocksOf(A, b""), "9312c420" + "61" * 32 + "c400"),
    (m.Statuses((m.Status(A, m.FINAL, b"cert"),)), "92149194c420" + "61" * 32 + "03c40463657274c400"),
    (m.Fetched((DECIDED, None)), "92159292c4026f70c40463657274c0"),
    (
        m.ObjectHead(A, b"state", (), (DECIDED,)),
        "9516c420" + "61" * 32 + "c40573746174659091" + "92c4026f70c40463657274",
    ),
    (m.CreditPage((m.CreditEntry(CREDIT, 5),), 1, 9, 8), "95179192c422" + "61" * 32 + "000105010908"),
    (m.Heights((m.Height(A, 3),), 2), "93189192c420" + "61" * 32 + "0302"),
    (m.Finals((DECIDED,), 2), "93199192c4026f70c4046365727402"),
    (
        m.Statistics(A, B, 1, 2, 3, 4, 5, 6, 7, 8, A, 0, 1, 9),
        "9f1ac420" + "61" * 32 + "c420" + "62" * 32 + "0102030405060708c420" + "61" * 32 + "000109",
    ),
    (m.Attachments((b"proof", None)), "921b92c40570726f6f66c0"),
    (m.EvidenceIds((A,)), "921c91c420" + "61" * 32),
    (m.Reconciled(b"ranges"), "921dc40672616e676573"),
    (m.History((DECIDED,)), "92209192c4026f70c40463657274"),
    (m.DecidedPage((DECIDED,), 5, 9), "94219192c4026f70c404636572740509"),
    (m.LockIds((A,), 1), "932291c420" + "61" * 32 + "01"),
    (m.AskPurse(A), "921ec420" + "61" * 32),
    (m.Purse(A, 5), "931fc420" + "61" * 32 + "05"),
]


@pytest.mark.parametrize(("message", "wire"), VECTORS, ids=[type(message).__name__ for message, _ in VECTORS])
def test_the_wire_form_is_what_it_was(message: Message, wire: str) -> None:
    assert encode(message).hex() == wire
    assert decode(bytes.fromhex(wire), type(message)) == message


def test_every_message_has_a_vector() -> None:
    tagged = {
        cls
        for cls in vars(m).values()
        if isinstance(cls, type) and issubclass(cls, Message) and cls.__struct_config__.tag is not None
    }
    assert tagged == {type(message) for message, _ in VECTORS}


def test_a_question_is_read_as_its_own_class() -> None:
    for message, wire in VECTORS[:19]:
        assert m.read_question(bytes.fromhex(wire)) == message


@pytest.mark.parametrize("wire", [wire for _, wire in VECTORS[19:]])
def test_an_answer_is_no_question(wire: str) -> None:
    with pytest.raises(Malformed):
        m.read_question(bytes.fromhex(wire))


@given(st.binary(max_size=200))
def test_e2_garbage_is_malformed_or_a_question(body: bytes) -> None:
    try:
        question = m.read_question(body)
    except Malformed:
        return
    assert encode(question) == body


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(m.Submit(()), id="nothing submitted"),
        pytest.param(m.Submit((b"",)), id="an empty operation"),
        pytest.param(m.Submit((b"x" * (m.SIGNED_SIZE_MAX + 1),)), id="an operation too large"),
        pytest.param(m.Submit((b"x",) * (m.OPERATIONS_MAX + 1)), id="too many operations"),
        pytest.param(m.Submit((b"x",), 2), id="a flag that is none"),
        pytest.param(m.PushBatch(b"x" * (m.BATCH_SIZE_MAX + 1)), id="a batch too large"),
        pytest.param(m.Follow((A,) * (m.OBJECTS_MAX + 1)), id="too many objects"),
        pytest.param(m.PushAttachment(b"x" * (ATTACHMENT_SIZE_MAX + 1)), id="an attachment too large"),
        pytest.param(m.FetchAttachments(()), id="no attachment asked for"),
        pytest.param(m.FetchAttachments((A,) * (m.ATTACHMENTS_MAX + 1)), id="too many attachments"),
        pytest.param(m.Reconcile(b"x" * (m.RECONCILE_SIZE_MAX + 1)), id="a reconciliation too large"),
        pytest.param(m.GetHistory((m.HistoryFrom(A, 0),)), id="a history from nothing"),
        pytest.param(m.GetHistory((m.HistoryFrom(A, 1),) * 65), id="too many histories"),
        pytest.param(m.GetObject(b"short"), id="an id too short"),
        pytest.param(m.FetchBatches(A, -1, 0), id="a negative height"),
    ],
)
def test_what_is_beyond_a_limit_is_malformed(message: Message) -> None:
    with pytest.raises(Malformed):
        m.read_question(encode(message))
