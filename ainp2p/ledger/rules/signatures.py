"""Signatures of several keys: of a Lock's authority, of an account's guardians. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ainp2p.errors import BadSignature


def verify_in_order(
    keys: Sequence[bytes], signatures: Sequence[bytes], check: Callable[[bytes, bytes], None], problem: str
) -> None:
    """Check that each signature is of a further key, in the order of the keys.

    Args:
        check: of a key and a signature; raises BadSignature if they do not fit.

    Raises:
        BadSignature: `problem`.
    """
    further = iter(keys)
    for signature in signatures:
        if not any(_fits(check, key, signature) for key in further):  # goes on where the last one stopped
            raise BadSignature(problem)


def _fits(check: Callable[[bytes, bytes], None], key: bytes, signature: bytes) -> bool:
    try:
        check(key, signature)
    except BadSignature:
        return False
    return True
