"""The keys of a swarm's processes, in encrypted files that one random passphrase opens."""

from __future__ import annotations

import os

from ainp2p.passphrase import passphrase_from_file
from ainp2p.protocol.context import Context
from ainp2p.protocol.identity import Key
from ainp2p.protocol.keystore import Cost, read_key_file, write_key_file
from ainp2p.swarm.spec import Spec

# The passphrase has 256 random bits: nobody guesses it, so there is nothing to make slow.
CHEAP = Cost(passes=1, memory_kib=64)


def make_keys(spec: Spec) -> dict[str, Key]:
    """A new key for each process, written to its file."""
    context = Context.system()
    passphrase = context.token_bytes(32).hex().encode()
    descriptor = os.open(spec.passphrase_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(passphrase + b"\n")
    keys = {name: Key(context.token_bytes(32)) for name in spec.names}
    spec.key_file("any").parent.mkdir(mode=0o700)
    for name, key in keys.items():
        write_key_file(spec.key_file(name), key, passphrase, context.token_bytes, CHEAP)
    return keys


def read_key(spec: Spec, name: str) -> Key:
    """The key of a process, from its file."""
    return read_key_file(spec.key_file(name), passphrase_from_file(spec.passphrase_file))
