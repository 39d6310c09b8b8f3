"""What the view decides about a swarm before it starts: one document that the creator is given."""

from __future__ import annotations

from pathlib import Path

import msgspec

from ainp2p.errors import InvalidInput

NETWORK_NAME = "swarm"
GENESIS_FILE = "genesis"
PASSPHRASE_FILE = "passphrase"
AUDITOR = "auditor"
CREATOR = "creator"
TEXT_SELLERS = (
    *("ada", "bela", "carl", "dora", "emil", "fay", "gil", "hana"),
    *("ivo", "jana", "kim", "lea", "max", "nils", "olga"),
)
EMBEDDING_SELLER = "mina"
BUYERS = ("rosa", "sam", "tess", "uli", "vera", "walt", "xena", "yuri")


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """One swarm.

    Attributes:
        directory: where keys, books, votes and logs are.
        paths: the user's files and folders.
        budget: uain in each buyer's purse.
        seed: of prices, sampling, and of who is killed when; keys are always random.
        parts: how many parts of the documents are worked on, at most.
        keep: the processes go on when the view has gone.
        sockets: name → descriptor of its end of the line, inherited by the creator.
    """

    directory: str
    paths: tuple[str, ...]
    validators: tuple[str, ...]
    text_sellers: tuple[str, ...]
    buyers: tuple[str, ...]
    text_model: str
    embedding_model: str
    threads: int
    budget: int
    seed: int
    parts: int
    keep: bool
    sockets: dict[str, int] = {}

    @property
    def sellers(self) -> tuple[str, ...]:
        """All sellers."""
        return (*self.text_sellers, EMBEDDING_SELLER)

    @property
    def names(self) -> tuple[str, ...]:
        """All processes that the creator starts."""
        return (*self.validators, *self.sellers, *self.buyers)

    @property
    def root(self) -> Path:
        """`directory` as a path."""
        return Path(self.directory)

    def home(self, name: str) -> Path:
        """The books of one process."""
        return self.root / name

    def log(self, name: str) -> Path:
        """What one process writes on its standard output and error."""
        return self.root / f"{name}.log"

    def key_file(self, name: str) -> Path:
        """The encrypted key of one process."""
        return self.root / "keys" / f"{name}.key"

    @property
    def genesis_file(self) -> Path:
        """The network's genesis."""
        return self.root / GENESIS_FILE

    @property
    def passphrase_file(self) -> Path:
        """What opens the key files; for their owner only."""
        return self.root / PASSPHRASE_FILE


def to_json(spec: Spec) -> str:
    """For a command line."""
    return msgspec.json.encode(spec).decode()


def from_json(text: str) -> Spec:
    """Read what `to_json` wrote.

    Raises:
        InvalidInput: it is none.
    """
    try:
        return msgspec.json.decode(text, type=Spec)
    except msgspec.MsgspecError as exc:
        raise InvalidInput(f"not a swarm's specification: {exc}") from exc
