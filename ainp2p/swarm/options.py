"""What the user of `ainp2p swarm` may decide, and what follows from it before anything is started."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ainp2p.agents.models.registry import KNOWN, resolve
from ainp2p.agents.models.scripted import Script
from ainp2p.errors import InvalidInput
from ainp2p.home import Home
from ainp2p.swarm.study import PARTS_MAX

EMBEDDING_MODEL = "minilm-l6-v2"
DEFAULT_MODEL = "smollm2-135m"
DEFAULT_BUDGET = 100_000  # uain in each purse; a run of 24 parts spends some 3,000
BUDGET_MIN, BUDGET_MAX = 1_000, 10**12
DEFAULT_LIMIT_S = 900
SCRIPTED_TITLE = "A title that the scripted model gives to everything, one word after the other"
SCRIPTED_RATE = 60.0  # tokens per second: slow enough to be killed in the middle of


@dataclass(frozen=True, slots=True)
class Options:
    """One run's options; see `ainp2p swarm --help`."""

    paths: Sequence[str]
    sellers: int | None = None
    buyers: int | None = None
    model: str = DEFAULT_MODEL
    seed: int = 1
    budget: int = DEFAULT_BUDGET
    parts: int = PARTS_MAX
    ask: str = ""
    json: bool = False
    report: str = "swarm-report"
    keep: bool = False
    limit_s: int = DEFAULT_LIMIT_S

    def __post_init__(self) -> None:
        if not BUDGET_MIN <= self.budget <= BUDGET_MAX:
            raise InvalidInput(f"--budget is {BUDGET_MIN:,} to {BUDGET_MAX:,} uain for each buyer")
        if not 1 <= self.parts <= 1000:
            raise InvalidInput("--parts is 1 to 1000")
        if not 5 <= self.limit_s <= 86_400:
            raise InvalidInput("--limit is 5 to 86400 seconds")
        if not 0 <= self.seed < 2**63:
            raise InvalidInput("--seed is a number from 0 on")


@dataclass(frozen=True, slots=True)
class Models:
    """The two models of a run, as `open_model` takes them."""

    text: str
    embedding: str
    name: str  # for people
    parameters: int  # of the text model; 0: scripted
    size_bytes: int  # of its weights on disk


def models_of(model: str, home: Home) -> Models:
    """Find the models, before anything is started.

    Raises:
        ModelNotFound: one of them is not here; the message says how to get it.
    """
    if model == "scripted":
        text = Script({"": SCRIPTED_TITLE}, tokens_per_second=SCRIPTED_RATE).as_name()
        return Models(text, Script(kind="embedding").as_name(), model, 0, 0)
    if model.startswith("scripted:"):
        return Models(model, Script(kind="embedding").as_name(), "scripted", 0, 0)
    directory = resolve(model, home.models()).directory
    resolve(EMBEDDING_MODEL, home.models())
    assert directory is not None  # only scripted models have none
    size = sum(path.stat().st_size for path in directory.glob("*.safetensors"))
    parameters = KNOWN[model].parameters if model in KNOWN else size // 2
    return Models(
        _absolute(model), EMBEDDING_MODEL, model if model in KNOWN else directory.name, parameters, size
    )


def _absolute(model: str) -> str:
    return model if model in KNOWN else str(Path(model).expanduser().absolute())
