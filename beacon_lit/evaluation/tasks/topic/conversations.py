"""Conversations on several topics, one after the other: from LongEval's file, or made up."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random

from beacon_lit.data.retrieval import made_up
from beacon_lit.evaluation.rows import Row, read_rows

_FIELDS = ("context", "topics", "num_topics")
_FETCH = (
    "LongEval: unpack long-llm.tar.gz (https://huggingface.co/datasets/namespace-Pt/projects) and name the folder "
    "long-llm in BEACON_DATA; or path=null for made-up conversations"
)
_LAST_OF_ONE = " \n USER: Great, this is the end of our discussion"  # how a record with one topic continues in the file
_END = " The record ends here."

_SUBJECTS = ("history", "music", "weather", "food", "schools", "markets", "streets", "language", "gardens")
_EXCHANGES = 4
_SENTENCES = 6  # of an answer


@dataclass(frozen=True)
class TopicConversation:
    """A conversation.

    Attributes:
        context: its text, with an introduction.
        topics: its topics, in order.
    """

    context: str
    topics: Sequence[str]


def read_topic_conversations(
    path: str, data_root: str | None, wanted: Sequence[int], samples: int
) -> list[TopicConversation]:
    """Read the first `samples` conversations of each number of topics, in the order of `wanted`.

    Raises:
        ValueError: a missing file, a malformed record, or no conversation with a wanted number of topics.
    """
    groups: dict[int, list[TopicConversation]] = {}
    for where, row in read_rows(path, data_root, _FIELDS, _FETCH):
        conversation = _conversation(row, where)
        groups.setdefault(len(conversation.topics), []).append(conversation)
    if missing := [number for number in wanted if number not in groups]:
        there = ", ".join(map(str, sorted(groups)))
        raise ValueError(f"num_topics={missing} is not allowed; allowed: {there}, those of {path}")
    return [conversation for number in wanted for conversation in groups[number][:samples]]


def _conversation(row: Row, where: str) -> TopicConversation:
    context, topics, number = (row[field] for field in _FIELDS)
    if not isinstance(context, str):
        raise ValueError(f"{where}: context must be a string")
    if not isinstance(topics, list) or not all(isinstance(topic, str) and topic for topic in topics):
        raise ValueError(f"{where}: topics must be a list of strings, none of them empty, not {topics!r}")
    if number not in range(1, len(topics) + 1):
        raise ValueError(f"{where}: num_topics is {number!r}, but there are {len(topics)} topics")
    return TopicConversation(context.split(_LAST_OF_ONE)[0] + _END if number == 1 else context, topics[:number])


def made_up_conversations(wanted: Sequence[int], samples: int, seed: int) -> Iterator[TopicConversation]:
    """Yield `samples` conversations of each number of topics, with about 400 words per topic."""
    for number in wanted:
        for index in range(samples):
            yield _made_up(number, Random(f"topics/{seed}/{number}/{index}"))


def _made_up(number: int, rng: Random) -> TopicConversation:
    topics: dict[str, str] = {}
    while len(topics) < number:
        topic = f"the {rng.choice(_SUBJECTS)} of {made_up.town(rng)}"
        topics[topic] = _talk(topic, rng)
    head = f"Here is a record of our talk on {number} topics. Each of them is named at its start.\n\n"
    return TopicConversation(head + "\n".join(topics.values()) + f"\n{_END.strip()}", list(topics))


def _talk(topic: str, rng: Random) -> str:
    asked = [f"I would like to discuss the topic of {topic}.", *["Go on, please."] * (_EXCHANGES - 1)]
    told = [" ".join(made_up.sentence(rng) for _ in range(_SENTENCES)) for _ in asked]
    return "\n".join(f"USER: {question}\nASSISTANT: {answer}" for question, answer in zip(asked, told, strict=True))
