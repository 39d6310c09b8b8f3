"""Cards: what is accepted, and a named case for each refusal."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from ainp2p.errors import BadSignature, Error, Expired, InvalidInput, Malformed
from ainp2p.protocol import card as cards
from ainp2p.protocol.card import (
    LIFE_MAX_MS,
    LIFE_MS,
    PURPOSE,
    Card,
    SkillCard,
    open_card,
    sign_card,
    skill_digest,
    verify_card,
)
from ainp2p.protocol.codec import encode
from ainp2p.protocol.identity import Key, digest
from ainp2p.protocol.messages import CLOCK_SKEW_MAX_MS, Signed, seal

NETWORK = b"N" * 32
ALICE, MALLORY = Key(b"a" * 32), Key(b"m" * 32)
NOW = 1_000_000_000_000


def inception_of(key: Key) -> bytes:
    return b"inception of " + key.public


def agent_of(key: Key, network: bytes = NETWORK) -> bytes:
    return digest(b"ainp2p/account/1", network, inception_of(key))


def bound(shown: Card, key: bytes, now_ms: int) -> bool:
    fits = shown.agent == digest(b"ainp2p/account/1", shown.network, shown.inception)
    return fits and shown.inception.endswith(key)


def skill(name: bytes = b"summarise", **change: Any) -> SkillCard:
    schema = b'{"type":"object"}'
    made = SkillCard(name, b"makes it short", schema, b"true", b"2/token", None, 20_000, 2, 4, 64, 32)
    return msgspec.structs.replace(made, **change)


def card(key: Key = ALICE, **change: Any) -> Card:
    peer = key.peer_id.encode()
    made = Card(
        network=NETWORK,
        agent=agent_of(key),
        inception=inception_of(key),
        peer=peer,
        addresses=(b"/ip4/127.0.0.1/tcp/4001/p2p/" + peer,),
        name=b"alice",
        skills=(skill(),),
        lineage=(),
        terms=b"",
        issued=NOW,
        expires=NOW + LIFE_MS,
        sequence=1,
    )
    return msgspec.structs.replace(made, **change)


def check(signed: Signed, now_ms: int = NOW) -> Card:
    return verify_card(signed, network=NETWORK, now_ms=now_ms, bound=bound)


def test_a_card_is_signed_and_read() -> None:
    assert check(sign_card(ALICE, card())) == card()
    assert card().skill(b"summarise") == skill()
    assert card().skill(b"other") is None
    assert skill().unit == "token"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        pytest.param({"network": b"O" * 32}, Malformed, id="another network"),
        pytest.param({"agent": b"x" * 32}, BadSignature, id="forged: an agent id that is not its own"),
        pytest.param(
            {"agent": agent_of(ALICE), "inception": inception_of(ALICE)},
            BadSignature,
            id="forged: another agent's name and inception",
        ),
        pytest.param({"peer": ALICE.peer_id.encode()}, BadSignature, id="forged: another's peer id"),
        pytest.param({"addresses": (b"/ip4/1.2.3.4/tcp/1",)}, Malformed, id="an address without a peer id"),
        pytest.param(
            {"addresses": (b"/ip4/1.2.3.4/tcp/1/p2p/" + ALICE.peer_id.encode(),)},
            Malformed,
            id="an address of another peer",
        ),
        pytest.param({"expires": NOW}, Malformed, id="no life"),
        pytest.param({"expires": NOW + LIFE_MAX_MS + 1}, Malformed, id="too long a life"),
        pytest.param({"issued": NOW - LIFE_MS, "expires": NOW}, Expired, id="expired"),
        pytest.param(
            {"issued": NOW + CLOCK_SKEW_MAX_MS + 1, "expires": NOW + CLOCK_SKEW_MAX_MS + 1000},
            Expired,
            id="from the future",
        ),
        pytest.param({"skills": (skill(), skill())}, Malformed, id="a skill twice"),
        pytest.param({"skills": (skill(price=b"cheap"),)}, Malformed, id="no price"),
        pytest.param({"skills": (skill(price=b"50/call + 2/token"),)}, Malformed, id="a price out of order"),
        pytest.param({"skills": (skill(window=31),)}, Malformed, id="a window below its step"),
        pytest.param({"skills": (skill(free=5),)}, Malformed, id="more free slots than slots"),
        pytest.param({"skills": (skill(input_schema=b"{ }"),)}, Malformed, id="a schema not canonical"),
        pytest.param({"skills": (skill(output_schema=b"1"),)}, Malformed, id="a schema that is none"),
        pytest.param({"skills": (skill(name=b""),)}, Malformed, id="a skill without a name"),
        pytest.param({"skills": tuple(skill(b"%d" % n) for n in range(17))}, Malformed, id="17 skills"),
        pytest.param({"name": b""}, Malformed, id="no name"),
        pytest.param({"addresses": (b"",)}, Malformed, id="an empty address"),
        pytest.param({"inception": b"x" * 5000}, Malformed, id="a huge inception"),
        pytest.param({"sequence": -1}, Malformed, id="a negative sequence"),
    ],
)
def test_a_wrong_card_is_refused_even_when_well_signed(change: dict[str, Any], error: type[Error]) -> None:
    with pytest.raises(error):
        check(seal(MALLORY, PURPOSE, card(MALLORY, **change)))


def test_an_expired_card_is_refused() -> None:
    signed = sign_card(ALICE, card())
    check(signed, NOW + LIFE_MS - 1)
    with pytest.raises(Expired):
        check(signed, NOW + LIFE_MS)


def test_a_card_above_the_size_limit_is_refused() -> None:
    large = tuple(
        skill(b"%d" % n, input_schema=b'{"a":"' + b"x" * 8000 + b'"}', description=b"") for n in range(7)
    )
    with pytest.raises(Malformed):
        check(seal(ALICE, PURPOSE, card(skills=large)))


@pytest.mark.parametrize("change", [{"skills": (skill(), skill())}, {"peer": b"x"}, {"name": b""}])
def test_a_card_that_others_would_refuse_is_not_signed(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        sign_card(ALICE, card(**change))


# --- E12 ----------------------------------------------------------------------------------------

ORDER = 2**252 + 27742317777372353535851937790883648493


def tampered(signature: bytes, how: str) -> bytes:
    s = int.from_bytes(signature[32:], "little")
    return {
        "truncated": signature[:63],
        "extended": signature + b"\0",
        "malleable S": signature[:32] + (s + ORDER).to_bytes(32, "little"),
        "a bit of R": bytes([signature[0] ^ 1]) + signature[1:],
        "a bit of S": signature[:32] + bytes([signature[32] ^ 1]) + signature[33:],
        "nothing": bytes(64),
    }[how]


@pytest.mark.parametrize(
    "how", ["truncated", "extended", "malleable S", "a bit of R", "a bit of S", "nothing"]
)
def test_e12_a_cards_tampered_signature_is_refused(how: str) -> None:
    good = sign_card(ALICE, card())
    with pytest.raises(BadSignature):
        check(msgspec.structs.replace(good, signature=tampered(good.signature, how)))


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(MALLORY.public, id="the wrong key"),
        pytest.param(bytes(32), id="a small-order point: zero"),
        pytest.param(b"\x01" + bytes(31), id="a small-order point: one"),
        pytest.param(
            bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
            id="a small-order point: of order eight",
        ),
        pytest.param(b"\xff" * 32, id="no point at all"),
    ],
)
@pytest.mark.parametrize("signature", [None, bytes(64), b"\x01" + bytes(63)])
def test_e12_a_card_under_a_bad_key_is_refused(key: bytes, signature: bytes | None) -> None:
    good = sign_card(ALICE, card())
    with pytest.raises(BadSignature):
        check(Signed(good.body, key, signature or good.signature))


@pytest.mark.parametrize("purpose", [b"ainp2p/market/1", b"ainp2p/receipt/1", b"", b"ainp2p/card/2"])
def test_e12_a_signature_for_another_purpose_is_no_card(purpose: bytes) -> None:
    body = encode(card())
    with pytest.raises(BadSignature):
        check(Signed(body, ALICE.public, ALICE.sign(purpose, body)))


def test_e12_a_changed_body_is_refused() -> None:
    good = sign_card(ALICE, card())
    with pytest.raises(BadSignature):
        check(msgspec.structs.replace(good, body=encode(card(name=b"alicf"))))


def test_mutant_without_the_binding_a_forged_card_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    forged = seal(MALLORY, PURPOSE, card(MALLORY, agent=agent_of(ALICE), inception=inception_of(ALICE)))
    with pytest.raises(BadSignature):
        check(forged)
    assert verify_card(forged, network=NETWORK, now_ms=NOW, bound=lambda *_: True)  # the fault, planted


def test_mutant_without_the_check_of_times_an_expired_card_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "_check_times", lambda card, now_ms: None)
    assert check(sign_card(ALICE, card()), NOW + 10 * LIFE_MS)


def test_a_card_in_use_is_one_object_however_many_others_came() -> None:
    signed = sign_card(ALICE, card())
    used = open_card(signed)
    cards._open_remembered.cache_clear()  # as so many others do
    assert open_card(signed) is used


def test_mutant_that_forgets_what_is_in_use_has_it_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "_in_use", {})
    signed = sign_card(ALICE, card())
    used = open_card(signed)
    cards.forget_opened()
    assert open_card(signed) is not used


def test_a_card_that_nobody_holds_is_forgotten() -> None:
    signed = sign_card(ALICE, card(sequence=77))  # as in no other test
    open_card(signed)
    assert signed in cards._in_use
    cards._open_remembered.cache_clear()
    assert signed not in cards._in_use


def test_a_skills_key_in_the_dht_is_per_network() -> None:
    assert skill_digest(NETWORK, b"a") != skill_digest(b"O" * 32, b"a")
    assert skill_digest(NETWORK, b"a") != skill_digest(NETWORK, b"b")
