"""What the swarm's sellers sell: titles and labels by a text model, vectors and search by an embedding model.

Prompts were tried on SmolLM2-135M: a short title of a few sentences, and labels chosen, both by few-shot
examples, the labels with their bias taken off. Free summaries of long texts loop or hallucinate, so none
is sold.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Annotated, Any

import msgspec

from ainp2p.agents.models.model import Raw, Token
from ainp2p.agents.skill import Skill, skill
from ainp2p.agents.work import Work
from ainp2p.errors import InvalidInput
from ainp2p.swarm.vectors import Index, Vector, unit

TITLE_TOKENS_MAX = 24
TEXT_CHARS_MAX = 2_000
TEXTS_MAX = 64
ENTRIES_MAX = 100_000  # in one seller's index
HITS_MAX = 16
LABELLED_CHARS_MAX = 300  # of a text: longer ones drown the examples
TITLED_CHARS_MAX = 400
NO_TEXT = "The text."  # says nothing: what the labels get for it is their bias

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=TEXT_CHARS_MAX)]
Texts = Annotated[list[Text], msgspec.Meta(min_length=1, max_length=TEXTS_MAX)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]

TOPICS = ("software", "security", "money", "science", "nature", "society")
TONES = ("praise", "complaint", "fact", "advice")
_TOPIC_EXAMPLES = (
    ("The function returns a list, and the caller sorts it.", "software"),
    ("Whoever steals the key can sign in your name.", "security"),
    ("The bank pays the interest at the end of each month.", "money"),
    ("The telescope measured the light of a distant star.", "science"),
    ("Bees visit the apple trees in the first warm days of spring.", "nature"),
    ("The council voted for a new school in the village.", "society"),
    ("Install the package, then run the command in a terminal.", "software"),
    ("An attacker who floods the server is cut off.", "security"),
    ("The buyer owes the seller twelve coins.", "money"),
    ("Water boils at a lower temperature on a mountain.", "science"),
    ("The river floods the meadow every winter.", "nature"),
    ("Parents and teachers met to talk about the new rules.", "society"),
)
_TONE_EXAMPLES = (
    ("The tower is 94 metres high and was finished in 1889.", "fact"),
    ("First unplug the lamp, then unscrew the bulb.", "advice"),
    ("The plan is badly written and will not work.", "complaint"),
    ("What a wonderful book, everybody should read it at once!", "praise"),
    ("Two of the four rivers flow into the lake.", "fact"),
    ("Add the flour slowly and keep stirring.", "advice"),
    ("They promised much and delivered nothing.", "complaint"),
    ("I love this garden, it is the best place in the city!", "praise"),
    ("Open the file, change the second line and save it.", "advice"),
    ("A year has twelve months, and most of them have thirty or thirty-one days.", "fact"),
    ("Nobody asked for this change, and it makes everything worse.", "complaint"),
    ("We are proud and happy to show you our best work yet!", "praise"),
    ("Wash the rice twice, then cook it for twelve minutes.", "advice"),
    ("The program reads a file and writes one line for each record.", "fact"),
    ("The service was rude and the room was dirty.", "complaint"),
    ("I am so happy with my new bicycle, it is a dream!", "praise"),
    ("Turn off the power first, then remove the two screws.", "advice"),
    ("The lake is 40 kilometres long and lies in the north of the country.", "fact"),
    ("The report is careless, and its conclusions are wrong.", "complaint"),
    ("This is fantastic, I enjoyed every minute of it!", "praise"),
)
_TITLE_EXAMPLES = (
    (
        "The city council approved a plan to close three streets in the old town to cars from "
        "May. Shop owners fear for their sales, while residents hope for cleaner air and less "
        "noise.",
        "Old Town Streets to Close to Cars",
    ),
    (
        "A cache keeps copies of data that is needed often. When the copy is older than a limit, "
        "it is thrown away and read again from the database, so readers never see very old "
        "values.",
        "Keeping Cached Data Fresh",
    ),
    (
        "Honey bees tell each other where flowers are by dancing. The angle of the dance shows "
        "the direction of the food, and its length shows how far away it is.",
        "The Dance Language of Honey Bees",
    ),
    (
        "A contract begins when both sides have signed it. Each side may end it with a notice of "
        "thirty days, and what was paid for work that was not done is given back.",
        "Beginning and Ending a Contract",
    ),
    (
        "Boil the potatoes in salted water, mash them with butter and warm milk, and add a little "
        "nutmeg. Serve them hot with fried onions on top.",
        "Mashed Potatoes with Fried Onions",
    ),
)
EMBEDDING_SKILLS = frozenset({"embed", "index", "search"})  # of `embedding_skills`


def title_prompt(text: str) -> Raw:
    """Titles of other texts, then the text without one; the title ends with its line."""
    return label_prompt(_TITLE_EXAMPLES, "Title", text[:TITLED_CHARS_MAX])


def label_prompt(examples: Sequence[tuple[str, str]], word: str, text: str) -> Raw:
    """Examples with their labels, then the text without one."""
    shown = "".join(f"Text: {example}\n{word}: {label}\n\n" for example, label in examples)
    return Raw(f"{shown}Text: {text}\n{word}:")


def likeliest(labels: Sequence[str], found: Mapping[str, float], empty: Mapping[str, float]) -> str:
    """The label that the text makes likelier than no text does (Zhao et al., Calibrate Before Use, 2021)."""
    return max(labels, key=lambda label: found[label] - empty[label])


# --- text -------------------------------------------------------------------------------------------------


def text_skills(*, token_price: int, call_price: int) -> list[Skill]:
    """What a seller with a text model offers, at its prices."""
    without_text: dict[str, Mapping[str, float]] = {}

    @skill("title", price=f"{token_price}/token")
    async def title(job: Work, text: Text) -> AsyncIterator[Token]:
        """A title of at most 24 tokens for a few sentences; goes on from a prefix."""
        async for token in job.model.stream(title_prompt(text), max_tokens=TITLE_TOKENS_MAX):
            yield token
            if "\n" in token.text:
                return

    async def choose(job: Work, text: str, word: str, labels: Sequence[str], examples: Any) -> str:
        shown = text[:LABELLED_CHARS_MAX]
        found = (await job.model.choose(label_prompt(examples, word, shown), labels)).logprobs
        if word not in without_text:
            blank = label_prompt(examples, word, NO_TEXT)
            without_text[word] = (await job.model.choose(blank, labels)).logprobs
        return likeliest(labels, found, without_text[word])

    @skill("topic", price=f"{call_price}/call")
    async def topic(job: Work, text: Text) -> AsyncIterator[str]:
        """One of: software, security, money, science, nature, society."""
        yield await choose(job, text, "Topic", TOPICS, _TOPIC_EXAMPLES)

    @skill("tone", price=f"{call_price}/call")
    async def tone(job: Work, text: Text) -> AsyncIterator[str]:
        """One of: praise, complaint, fact, advice."""
        yield await choose(job, text, "Style", TONES, _TONE_EXAMPLES)

    return [title, topic, tone]


# --- embeddings -------------------------------------------------------------------------------------------


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One sentence to be found again: where it stands and what it says."""

    path: Annotated[str, msgspec.Meta(max_length=512)]
    first_line: Annotated[int, msgspec.Meta(ge=0)]
    last_line: Annotated[int, msgspec.Meta(ge=0)]
    heading: Annotated[str, msgspec.Meta(max_length=512)]
    quote: Text


Entries = Annotated[list[Entry], msgspec.Meta(min_length=1, max_length=TEXTS_MAX)]


def embedding_skills(*, item_price: int) -> list[Skill]:
    """What a seller with an embedding model offers; its indexes live as long as its process."""
    indexes: dict[str, Index[Entry]] = {}

    async def embedded(job: Work, texts: Sequence[str]) -> list[Vector]:
        return [unit(vector) for vector in (await job.model.embed(texts)).vectors]

    @skill("embed", price=f"{item_price}/item")
    async def embed(job: Work, texts: Texts) -> AsyncIterator[list[int]]:
        """One vector of integers per text; 32768 stands for 1."""
        for vector in await embedded(job, texts):
            yield list(vector)

    @skill("index", price=f"{item_price}/item")
    async def index(job: Work, collection: Name, entries: Entries) -> AsyncIterator[int]:
        """Remembers sentences under a collection's name; yields how many it holds, after each."""
        kept = indexes.setdefault(collection, Index())
        if sum(len(held) for held in indexes.values()) + len(entries) > ENTRIES_MAX:
            raise InvalidInput(f"this index is full: it holds {ENTRIES_MAX} sentences")
        for entry, vector in zip(entries, await embedded(job, [e.quote for e in entries]), strict=True):
            kept.add(entry, vector)
            yield len(kept)

    @skill("search", price=f"{item_price}/item")
    async def search(
        job: Work,
        collection: Name,
        question: Text,
        limit: Annotated[int, msgspec.Meta(ge=1, le=HITS_MAX)] = 3,
    ) -> AsyncIterator[dict[str, Any]]:
        """The sentences of a collection that are nearest in meaning, best first, each with its place."""
        (vector,) = await embedded(job, [question])
        for hit in indexes.get(collection, Index[Entry]()).search(vector, limit):
            yield {**msgspec.to_builtins(hit.key), "cosine_millionths": hit.cosine_millionths}

    return [embed, index, search]
