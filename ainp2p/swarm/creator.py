"""The creator: makes keys, directories and a genesis that funds the buyers, starts everybody, and exits.

    keys ─▶ validators tell their addresses ─▶ genesis ─▶ sellers and buyers ─▶ gone

Each process gets a session of its own and is nobody's child when the creator has gone; nothing depends on
it any more. It is started by the view as ``python -m ainp2p.swarm.creator SPEC`` and has no event loop.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from ainp2p.errors import Error, TimedOut
from ainp2p.swarm import events as ev
from ainp2p.swarm import process
from ainp2p.swarm.spec import CREATOR, EMBEDDING_SELLER, NETWORK_NAME, Spec, from_json

if TYPE_CHECKING:
    from ainp2p.ledger.rules.genesis import Genesis

ADDRESS_TIMEOUT_S = 30.0  # for a validator to listen


def main(argv: list[str]) -> int:
    """Make a swarm of the specification in `argv`; returns the exit status."""
    spec = from_json(argv[1])
    ends = {name: socket.socket(fileno=descriptor) for name, descriptor in spec.sockets.items()}
    own = ends[CREATOR]
    _say(own, ev.StageReached(at_ms=_now_ms(), name=CREATOR, stage="started", pid=os.getpid()))
    try:
        process.preload()
        Creator(spec, ends).create()
    except (Error, OSError) as exc:
        _say(own, ev.Note(at_ms=_now_ms(), text=f"the swarm could not be made: {exc}", level="error"))
        return 1
    _say(own, ev.PeerDown(at_ms=_now_ms(), name=CREATOR, reason="finished"))
    return 0


class Creator:
    """Makes one swarm. `ends` are all processes' ends of their lines, the creator's own among them."""

    def __init__(self, spec: Spec, ends: Mapping[str, socket.socket]) -> None:
        from ainp2p.swarm.keys import make_keys  # after `preload`, as all that is heavy

        self._spec, self._ends = spec, ends
        self._pipes: set[int] = set()  # open here
        self._keys = make_keys(spec)

    def create(self) -> None:
        """Start everybody.

        Raises:
            Error: a validator did not start, or the directory cannot be used.
        """
        from ainp2p.swarm.buyers import buyer
        from ainp2p.swarm.sellers import embedding_seller, text_seller

        spec, keys = self._spec, self._keys
        genesis = self._start_validators()
        for name in spec.text_sellers:
            self._start(name, text_seller(spec, name, keys[name], genesis))
        self._start(
            EMBEDDING_SELLER, embedding_seller(spec, EMBEDDING_SELLER, keys[EMBEDDING_SELLER], genesis)
        )
        for name in spec.buyers:
            self._start(name, buyer(spec, name, keys[name], genesis))

    def _start_validators(self) -> Genesis:
        """The committee first: the genesis names its addresses, and only the system knows free ports."""
        from ainp2p.swarm.validators import validator

        told, asking = {}, {}
        for name in self._spec.validators:
            self._spec.home(name).mkdir(mode=0o700)
            told[name], address_in = self._pipe()
            genesis_out, asking[name] = self._pipe()
            self._start(
                name,
                validator(self._spec, name, self._keys[name], address_in, genesis_out),
                address_in,
                genesis_out,
            )
            self._close(address_in)
            self._close(genesis_out)
        genesis = self._genesis(_addresses(told))
        genesis.write(self._spec.genesis_file)
        founded = ev.NetworkFounded(
            at_ms=_now_ms(), network=genesis.network_id.hex()[:16], supply=genesis.supply
        )
        _say(self._ends[CREATOR], founded)
        for name in self._spec.validators:
            with suppress(BrokenPipeError):  # it has died meanwhile: three are enough
                os.write(asking[name], self._spec.genesis_file.read_bytes())
            self._close(asking[name])
            self._close(told[name])
        return genesis

    def _genesis(self, addresses: Mapping[str, list[str]]) -> Genesis:
        from ainp2p.ledger.rules.genesis import DEVELOPMENT, new_genesis
        from ainp2p.ledger.rules.operations import plain_inception

        spec, keys = self._spec, self._keys
        return new_genesis(
            NETWORK_NAME,
            _now_ms(),
            [(keys[name].public, 1, addresses[name]) for name in spec.validators],
            [(plain_inception(keys[name].public), spec.budget) for name in spec.buyers],
            None,
            DEVELOPMENT,
        )

    def _start(self, name: str, serve: process.Serve, *descriptors: int) -> None:
        def forget() -> None:
            for other, end in self._ends.items():
                if other != name:
                    end.close()
            for descriptor in self._pipes.difference(descriptors):
                os.close(descriptor)

        log = self._spec.log(name)
        process.start(name, serve, self._ends[name], forget, log, keep=self._spec.keep)

    def _pipe(self) -> tuple[int, int]:
        pipe = os.pipe()
        self._pipes.update(pipe)
        return pipe

    def _close(self, descriptor: int) -> None:
        os.close(descriptor)
        self._pipes.discard(descriptor)


def _addresses(told: Mapping[str, int]) -> dict[str, list[str]]:
    """What each validator says about where it listens.

    Raises:
        TimedOut: one of them said nothing.
    """
    said = dict.fromkeys(told, b"")
    waiting = {descriptor: name for name, descriptor in told.items()}
    deadline = time.monotonic() + ADDRESS_TIMEOUT_S
    while waiting:
        ready, _, _ = select.select(list(waiting), [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise TimedOut(f"{', '.join(waiting.values())} did not start within {ADDRESS_TIMEOUT_S:g} s")
        for descriptor in ready:
            data = os.read(descriptor, 65_536)
            name = waiting[descriptor]
            said[name] += data
            if not data or said[name].endswith(b"\n\n"):
                del waiting[descriptor]
    missing = [name for name, data in said.items() if not data.endswith(b"\n\n")]
    if missing:
        raise TimedOut(f"{', '.join(missing)} ended before it listened; its log says why")
    return {name: data.decode().split() for name, data in said.items()}


def _say(own: socket.socket, event: ev.AnyEvent) -> None:
    with suppress(OSError):  # the view has gone; everybody will hear of it
        own.sendall(ev.to_line(event))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


if __name__ == "__main__":
    sys.exit(main(sys.argv))
