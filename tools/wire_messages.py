"""Writes docs/wire-messages.md: every message that travels or is signed, field by field, from its class.

    python -m tools.wire_messages            # writes the page
    python -m tools.wire_messages --check    # status 1 if it is stale

What a field may hold comes from its type, so the page cannot say another limit than the decoder has; what
it means comes from the comment beside it, or from the class's "Attributes". The page says nothing that is
not in the code; whatever else another implementation needs is in docs/wire-formats.md, written by hand.
"""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from ainp2p.ledger.rules import (
    accounts,
    genesis,
    locks,
    operations,
    parameters,
    receipts,
    releases,
    state_tree,
    system,
)
from ainp2p.ledger.serving import checkpoint_messages, reconcile
from ainp2p.ledger.serving import messages as ledger_messages
from ainp2p.ledger.voting import attested, certificate, evidence, handoff, justification, omissions, votelog
from ainp2p.ledger.wallets import bundle, delegation, iou, recovery, watching
from ainp2p.protocol import card, keystore, messages
from ainp2p.protocol.codec import INT_MAX, Message

PAGE = Path(__file__).parents[1] / "docs" / "wire-messages.md"

# title, what stands below it, the modules, and the classes of theirs that never travel
SECTIONS: tuple[tuple[str, str, tuple[ModuleType, ...], frozenset[str]], ...] = (
    (
        "The market",
        "`/ainp2p/market/1`. Who says what, and in answer to what, is in "
        "[wire formats](wire-formats.md#the-market). `Signed` is also the envelope of cards.",
        (messages,),
        frozenset(),
    ),
    ("Cards", "`/ainp2p/card/1`, and the topic of cards.", (card,), frozenset()),
    (
        "Operations",
        "What the ledger decides. `SignedOperation` is what travels; an operation's id is the hash of `raw`.",
        (operations,),
        frozenset(),
    ),
    (
        "Receipts",
        "Signed by a Lock's authority, settled by its payee. `Partial` is one verifier's of k.",
        (receipts, releases),
        frozenset({"Booked"}),
    ),
    ("Watchtowers", "`/ainp2p/watch/1`.", (watching,), frozenset()),
    (
        "IOUs, delegations, recoveries",
        "Between two parties, or guardians: by whatever way. No ledger backs an IOU.",
        (iou, delegation, recovery),
        frozenset(),
    ),
    (
        "States",
        "What operations make of an object; in `ObjectHead.state`, and in validators' state roots.",
        (accounts, locks, system, state_tree),
        frozenset(),
    ),
    ("Votes", "A validator's log, batch by batch.", (votelog, attested), frozenset()),
    ("Justifications", "What a leader proposes with, as an attachment.", (justification,), frozenset()),
    (
        "Ends of epochs",
        "What members hand over, as attachments: see [wire formats](wire-formats.md#epochs).",
        (handoff,),
        frozenset(),
    ),
    (
        "Offences",
        "Evidence of one, as an attachment. Its items are in [wire formats](wire-formats.md#evidence).",
        (evidence, omissions),
        frozenset(),
    ),
    ("Certificates", "Proof that a quorum has voted.", (certificate,), frozenset()),
    (
        "The genesis file",
        "The file, and the answer on `/ainp2p/genesis/1`.",
        (parameters, genesis),
        frozenset(),
    ),
    (
        "The ledger's questions and answers",
        "`/ainp2p/ledger/1`; the faucet's two on `/ainp2p/faucet/1`.",
        (ledger_messages,),
        frozenset(),
    ),
    ("Checkpoints", "`/ainp2p/checkpoint/1`.", (checkpoint_messages,), frozenset()),
    (
        "Bundles",
        "Files that `ainp2p ledger export` writes and `verify` judges. Parts are encoded messages.",
        (bundle,),
        frozenset(),
    ),
    ("Reconciliation", "In what the ledger's questions carry as bytes.", (reconcile,), frozenset()),
    (
        "Key files",
        "On disk, never on the wire; [wire formats](wire-formats.md#key-files) has the file around it.",
        (keystore,),
        frozenset(),
    ),
)

HEAD = """# Messages

Written by `tools/wire_messages.py` from the message classes; a test fails when it is stale.
[Wire formats](wire-formats.md) says how these are encoded, signed and framed.

Each message is one array. Where a tag is given, it is the array's first element; then come the fields, all
of them, in this order. *uint* is 0 to 2⁶³ − 1, *positive* 1 to 2⁶³ − 1, *32 bytes* a byte string of just
that length.
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for title, below, modules, left_out in SECTIONS:
        parts.append(f"\n## {title}\n\n{below}\n")
        for module in modules:
            parts.extend(table(cls) for cls in classes(module) if cls.__name__ not in left_out)
    return "".join(parts)


def classes(module: ModuleType) -> list[type[Message]]:
    """The message classes that a module defines, in its order."""
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Message) and value.__module__ == module.__name__
    ]


def table(cls: type[Message]) -> str:
    """One message: its tag, what it is, and a row for each field."""
    tag = cls.__struct_config__.tag
    comments = _comments(cls)
    lines = [f"\n### {cls.__name__.lstrip('_')}\n\n", f"Tag {tag}. " if tag is not None else "No tag. "]
    lines.append(_summary(cls) + "\n")
    info = msgspec.inspect.type_info(cls)
    assert isinstance(info, msgspec.inspect.StructType)
    if info.fields:
        lines.append("\n| field | holds | |\n|---|---|---|\n")
    for field in info.fields:
        lines.append(f"| `{field.name}` | {holds(field.type)} | {comments.get(field.name, '')} |\n")
    return "".join(lines)


def holds(type_: Any) -> str:
    """What a field may hold, in words."""
    inspect_ = msgspec.inspect
    match type_:
        case inspect_.IntType(ge=0, le=le) if le == INT_MAX:
            return "uint"
        case inspect_.IntType(ge=1, le=le) if le == INT_MAX:
            return "positive"
        case inspect_.IntType():
            top = type_.le if type_.le is not None else (type_.lt or 0) - 1
            return f"{type_.ge or 0:,} to {top:,}"
        case inspect_.BytesType():
            return _bytes(type_.min_length, type_.max_length)
        case inspect_.BoolType():
            return "boolean"
        case inspect_.NoneType():
            return "nil"
        case inspect_.VarTupleType():
            return f"{_count(type_.min_length, type_.max_length)} of {holds(type_.item_type)}"
        case inspect_.StructType():
            return f"[{type_.cls.__name__}](#{type_.cls.__name__.lower()})"
        case inspect_.UnionType():
            return " or ".join(holds(each) for each in type_.types)
    raise TypeError(f"the page has no words for {type_}")


def _bytes(least: int | None, most: int | None) -> str:
    if least is not None and least == most:
        return f"{most} bytes"
    if most is None:
        return "bytes"
    return f"{least:,} to {most:,} bytes" if least else f"at most {most:,} bytes"


def _count(least: int | None, most: int | None) -> str:
    if most is None:
        return "array"
    return f"array of {least} to {most:,}" if least else f"array of at most {most:,}"


def _summary(cls: type[Message]) -> str:
    """The docstring without its list of attributes, as running text."""
    text = inspect.cleandoc(cls.__doc__ or "").partition("\nAttributes:")[0].replace("``", "`")
    if text.startswith(f"{cls.__name__}("):  # msgspec's own, where a class has none
        text = ""
    return re.sub(r"\s*\n\s*", " ", re.sub(r"\n\n+", " ", text)).strip()


def _comments(cls: type[Message]) -> dict[str, str]:
    """What is said of each field: in the comment beside it, or under "Attributes" in the docstring."""
    said = dict(re.findall(r"^    (\w+): [^#\n]*#\s*(.+)$", inspect.getsource(cls), re.MULTILINE))
    attributes = inspect.cleandoc(cls.__doc__ or "").partition("\nAttributes:\n")[2]
    for name, text in re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", attributes, re.MULTILINE):
        said[name] = re.sub(r"\s*\n\s*", " ", text)
    return {name: text.replace("``", "`").replace("|", "\\|") for name, text in said.items()}


def main(arguments: list[str]) -> int:
    """Write the page, or with ``--check`` say whether it is stale."""
    if "--check" in arguments:
        return 0 if PAGE.read_text("utf-8") == page() else 1
    PAGE.write_text(page(), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
