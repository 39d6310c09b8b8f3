"""Getting an operation decided that is nobody's in particular: a RECOVER that guardians signed, a SETTLE.

The operation is complete, so there is nothing to journal: whoever has its bytes can submit them again.
"""

from __future__ import annotations

from contextlib import suppress

import trio

from ainp2p.errors import InvalidOperation, NetworkError, NotFinal, TimedOut
from ainp2p.ledger.rules.genesis import Genesis
from ainp2p.ledger.rules.operations import SignedOperation, parse
from ainp2p.ledger.serving.proofs import Proofs
from ainp2p.ledger.serving.sync import Validators
from ainp2p.ledger.wallets.following import Following
from ainp2p.ledger.wallets.submitting import Pending, Submitter
from ainp2p.protocol.network import Network


async def publish(network: Network, genesis: Genesis, signed: SignedOperation, *, timeout_s: float) -> bytes:
    """Submit to all validators until it is final; its certificate.

    Raises:
        Malformed, InvalidOperation: it is no operation.
        InvalidOperation: a quorum refuses it: the rule says why. It will never be final.
        NotFinal: validators hold it and have not decided.
        TimedOut: no validator answers.
    """
    proofs = Proofs(genesis)
    pending = Pending(parse(signed))

    def on_final(_: Pending, certificate: bytes) -> None:
        proofs.check_certificate(certificate, pending.id)
        pending.resolve(certificate)

    def on_refused(_: Pending, rule: str) -> None:
        pending.resolve(error=InvalidOperation(rule, "a quorum of validators refuses it"))

    validators = Validators(network, genesis)
    following = Following(validators, proofs.chain)
    submitter = Submitter(validators, on_final, on_refused)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(following.run)
        submitter.begin(nursery)
        submitter.add(pending)
        with trio.move_on_after(timeout_s):
            with suppress(NetworkError):  # those that we know may answer later
                await following.catch_up_if_due()
            await pending.resolved.wait()
        nursery.cancel_scope.cancel()
    if pending.error is not None:
        raise pending.error
    if not pending.resolved.is_set():
        if pending.seen_by:
            raise NotFinal(
                f"{len(pending.seen_by)} validators hold it, no quorum has decided; submit it again"
            )
        raise TimedOut("no validator answers: submit it again")
    return pending.certificate
