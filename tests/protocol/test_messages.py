"""The market's messages: one encoding each, pinned; the envelope; limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ainp2p.errors import BadSignature, Malformed
from ainp2p.protocol import card as cards
from ainp2p.protocol import messages as m
from ainp2p.protocol.codec import Message, encode
from ainp2p.protocol.delivery import next_context
from ainp2p.protocol.identity import Key
from ainp2p.protocol.messages import PURPOSE, Signed, decode_wire, open_, open_market, seal
from tests.protocol import test_card

VECTORS = Path(__file__).parent.parent / "vectors" / "market.json"
ALICE, BOB = Key(b"a" * 32), Key(b"b" * 32)
A, B, C, D, E = (bytes([n]) * 32 for n in range(1, 6))

EXAMPLES: dict[str, Message] = {
    "CallForProposals": m.CallForProposals(
        A, B, C, D, b"summarise", E, 17, 100, b"3/token", 1_800_000_002_000
    ),
    "Proposal": m.Proposal(A, B, C, D, 0, b"2/token + 50/call", 64, 32, 0, 20_000, 5, E, 1_800_000_010_000),
    "Proposal without a model": m.Proposal(A, B, C, D, 3, b"2/token", 64, 32, 256, 0, 0, None, 1),
    "CounterProposal": m.CounterProposal(A, B, C, D, 1, b"1/token", 1_800_000_004_000),
    "Decline": m.Decline(A, B),
    "Refusal": m.Refusal(A, b"busy", b"no slot is free"),
    "Award": m.Award(
        A,
        B,
        C,
        D,
        b"summarise",
        b"2/token",
        64,
        32,
        600,
        300,
        E,
        b'{"text":"x"}',
        b"pre",
        b"\0\0\0\7",
        b"s" * 16,
        9,
    ),
    "Accepted": m.Accepted(A, 12, 32),
    "Chunk of tokens": m.Chunk(A, 1, 0, 2, m.TOKENS, "né".encode(), m.pack_tokens([7, 70_000]), b"\4\0\0\1"),
    "Chunk of JSON": m.Chunk(A, 2, 0, 1, m.JSON, b"[1]", b"", b""),
    "Finished": m.Finished(A, b"done", 2, 4, 1, B, b""),
    "ReceiptNotice": m.ReceiptNotice(A, b"receipt", (m.Taken(B, 5), m.Taken(C, 0))),
    "Cancel": m.Cancel(A, b""),
    "Resume": m.Resume(A, 3, 4, b"receipt", 2),
    "StatusRequest": m.StatusRequest(A),
    "Status": m.Status(A, b"working", 4, 8, 3, 2, 6),
}
UNSIGNED = (m.Chunk, m.ReceiptNotice, m.StatusRequest, m.Status)


def vectors() -> dict[str, Any]:
    found: dict[str, Any] = {name: encode(message).hex() for name, message in EXAMPLES.items()}
    signed = seal(ALICE, PURPOSE, EXAMPLES["Decline"])
    found["Signed Decline"] = {"seed": (b"a" * 32).hex(), "wire": encode(signed).hex(), "id": signed.id.hex()}
    found["context after Chunk of tokens"] = next_context(D, m.Chunk(*_fields("Chunk of tokens"))).hex()
    found["Card"] = encode(test_card.card()).hex()
    found["CardPush"] = encode(cards.CardPush((signed,), True)).hex()
    found["CardsHeld"] = encode(cards.CardsHeld(bytes(40))).hex()
    found["CardWanted"] = encode(cards.CardWanted()).hex()
    return found


def _fields(name: str) -> tuple[Any, ...]:
    return msgspec.structs.astuple(EXAMPLES[name])


def test_the_wire_form_is_the_one_that_is_checked_in() -> None:
    # A change here is a change of protocol: say so, then `python -m tests.protocol.test_messages` writes it.
    assert json.loads(VECTORS.read_text()) == vectors()


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_message_is_read_back_from_its_vector(name: str) -> None:
    message, raw = EXAMPLES[name], bytes.fromhex(json.loads(VECTORS.read_text())[name])
    if isinstance(message, UNSIGNED):
        assert decode_wire(raw) == message
        with pytest.raises(Malformed):
            open_market(seal(ALICE, PURPOSE, message))
    else:
        assert open_market(seal(ALICE, PURPOSE, message)) == message
        with pytest.raises(Malformed):
            decode_wire(raw)  # it travels only signed


@pytest.mark.parametrize("name", EXAMPLES)
def test_e2_no_prefix_and_no_extension_of_a_message_is_one(name: str) -> None:
    raw = encode(EXAMPLES[name])
    for cut in range(len(raw)):
        with pytest.raises(Malformed):
            decode_wire(raw[:cut])
    with pytest.raises(Malformed):
        decode_wire(raw + b"\0")


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(msgspec.structs.replace(EXAMPLES["Decline"], answers=b"short"), id="a short id"),
        pytest.param(msgspec.structs.replace(EXAMPLES["Proposal"], window=0), id="no window"),
        pytest.param(msgspec.structs.replace(EXAMPLES["Proposal"], step=0), id="no step"),
        pytest.param(msgspec.structs.replace(EXAMPLES["Award"], budget=0), id="A7: no budget"),
        pytest.param(msgspec.structs.replace(EXAMPLES["Award"], budget=-1), id="A7: a negative budget"),
        pytest.param(msgspec.structs.replace(EXAMPLES["Award"], budget=2**63), id="A7: a budget of 2^63"),
        pytest.param(msgspec.structs.replace(EXAMPLES["Award"], seed=b"s" * 33), id="a long seed"),
        pytest.param(msgspec.structs.replace(EXAMPLES["Award"], skill=b""), id="a skill without a name"),
        pytest.param(
            msgspec.structs.replace(EXAMPLES["Award"], input=bytes(m.INPUT_SIZE_MAX + 1)), id="a huge input"
        ),
        pytest.param(
            msgspec.structs.replace(EXAMPLES["Award"], prefix=bytes(m.PREFIX_SIZE_MAX + 1)),
            id="a huge prefix",
        ),
        pytest.param(msgspec.structs.replace(EXAMPLES["Accepted"], input_units=-1), id="A7: negative units"),
        pytest.param(msgspec.structs.replace(EXAMPLES["Finished"], amount=2**64 - 1), id="A7: 2^64 uain"),
        pytest.param(msgspec.structs.replace(EXAMPLES["Refusal"], code=b"x" * 65), id="a long code"),
        pytest.param(msgspec.structs.replace(EXAMPLES["Resume"], from_n=0), id="resume before the first"),
    ],
)
def test_a_signed_message_beyond_its_limits_is_refused(message: Message) -> None:
    with pytest.raises(Malformed):
        open_market(seal(ALICE, PURPOSE, message))


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(
            msgspec.structs.replace(EXAMPLES["Chunk of JSON"], tokens=bytes(4 * m.TOKENS_MAX + 4)),
            id="too many tokens",
        ),
        pytest.param(msgspec.structs.replace(EXAMPLES["Chunk of JSON"], n=0), id="no number"),
        pytest.param(
            m.ReceiptNotice(A, b"", (m.Taken(B, 1),) * (m.JOBS_PER_NOTICE_MAX + 1)), id="too many jobs"
        ),
        pytest.param(m.ReceiptNotice(A, bytes(1025), ()), id="a huge receipt"),
        pytest.param(m.ReceiptNotice(A, b"", (m.Taken(B, -1),)), id="A7: negative progress"),
    ],
)
def test_an_unsigned_message_beyond_its_limits_is_refused(message: Message) -> None:
    with pytest.raises(Malformed):
        decode_wire(encode(message))


def test_the_largest_award_fits_one_request() -> None:
    award = msgspec.structs.replace(
        EXAMPLES["Award"],
        input=bytes(m.INPUT_SIZE_MAX),
        prefix=bytes(m.PREFIX_SIZE_MAX),
        prefix_tokens=bytes(m.PREFIX_SIZE_MAX),
        skill=b"s" * 128,
        price=b"p" * 4096,
    )
    wire = encode(seal(ALICE, PURPOSE, award))
    assert len(wire) <= m.WIRE_SIZE_MAX
    signed = decode_wire(wire)
    assert isinstance(signed, Signed)
    assert open_market(signed) == award


def test_the_largest_chunk_fits_one_body() -> None:
    chunk = m.Chunk(A, 2**62, 2**62, 1, m.BYTES, bytes(m.DATA_SIZE_MAX), bytes(1024), bytes(512))
    assert len(encode(chunk)) <= m.WIRE_SIZE_MAX
    assert decode_wire(encode(chunk)) == chunk


@given(st.lists(st.integers(0, 2**32 - 1), max_size=20))
def test_token_ids_are_packed_and_unpacked(ids: list[int]) -> None:
    assert m.unpack_tokens(m.pack_tokens(ids)) == ids


def test_wrong_token_ids_are_refused() -> None:
    for ids in ([-1], [2**32]):
        with pytest.raises(Malformed):
            m.pack_tokens(ids)
    with pytest.raises(Malformed):
        m.unpack_tokens(b"12345")
    with pytest.raises(Malformed):
        m.unpack_logprobs(b"1")


def test_logprobs_keep_a_2048th_of_a_nat() -> None:
    assert m.unpack_logprobs(m.pack_logprobs([0.0, -0.5, -40.0, -1.23456])) == pytest.approx(
        [0.0, -0.5, -65535 / 2048, -1.23456], abs=1 / 4096
    )


@given(st.binary(max_size=100))
def test_e2_garbage_inside_a_valid_envelope_is_refused_or_read(body: bytes) -> None:
    signed = Signed(body, ALICE.public, ALICE.sign(PURPOSE, body))
    assert decode_wire(encode(signed)) == signed
    try:
        message = open_market(signed)
    except Malformed:
        return
    assert encode(message) == body


# --- E12 ----------------------------------------------------------------------------------------

ORDER = 2**252 + 27742317777372353535851937790883648493


def bad_signatures(good: Signed) -> dict[str, Signed]:
    r, s = good.signature[:32], int.from_bytes(good.signature[32:], "little")
    other = m.Decline(B, A)
    body = encode(other)
    return {
        "another key": msgspec.structs.replace(good, key=BOB.public),
        "another body": msgspec.structs.replace(good, body=body),
        "truncated": msgspec.structs.replace(good, signature=good.signature[:63]),
        "malleable S": msgspec.structs.replace(good, signature=r + (s + ORDER).to_bytes(32, "little")),
        "a flipped bit": msgspec.structs.replace(
            good, signature=bytes([good.signature[0] ^ 1]) + good.signature[1:]
        ),
        "zero": msgspec.structs.replace(good, signature=bytes(64)),
        "small-order key": Signed(good.body, b"\1" + bytes(31), b"\1" + bytes(63)),
        "a card's purpose": Signed(good.body, ALICE.public, ALICE.sign(b"ainp2p/card/1", good.body)),
        "a receipt's purpose": Signed(good.body, ALICE.public, ALICE.sign(b"ainp2p/receipt/1", good.body)),
        "no purpose": Signed(good.body, ALICE.public, ALICE.sign(b"", good.body)),
    }


@pytest.mark.parametrize("how", bad_signatures(seal(ALICE, PURPOSE, EXAMPLES["Decline"])))
def test_e12_a_bad_signature_is_refused(how: str) -> None:
    bad = bad_signatures(seal(ALICE, PURPOSE, EXAMPLES["Decline"]))[how]
    with pytest.raises(BadSignature):
        open_market(bad)
    with pytest.raises(BadSignature):
        open_(bad, PURPOSE, m.Decline)


def test_a_signature_is_checked_before_the_body_is_read() -> None:
    with pytest.raises(BadSignature):
        open_market(Signed(b"garbage", ALICE.public, bytes(64)))


if __name__ == "__main__":
    VECTORS.write_text(json.dumps(vectors(), indent=2) + "\n")
