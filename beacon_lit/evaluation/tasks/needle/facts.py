"""Words the needles: a sentence about a city and a thing to do there, its question, and the words of the answer."""

from dataclasses import dataclass
from random import Random

CITIES = (
    "Lisbon", "Oslo", "Toronto", "Nairobi", "Lima", "Prague", "Hanoi", "Dublin", "Seville", "Kyoto", "Ghent", "Tunis",
    "Warsaw", "Montreal", "Krakow", "Jakarta", "Bergen", "Valencia", "Adelaide", "Havana", "Turin", "Riga", "Cardiff",
    "Quito",
)  # fmt: skip
# Things to do; an answer must have the words in brackets.
PLEASURES = (
    "share a [plum cake] under the lime trees", "fly a [paper kite] from the city wall",
    "listen to the [brass band] at the fountain", "row a [green boat] across the pond",
    "feed the [grey geese] behind the mill", "play [chess] with strangers at the tram stop",
    "drink [ginger tea] on the roof of the library", "draw the [clock tower] with charcoal",
    "count the [herons] along the canal", "buy [roasted chestnuts] beside the town gate",
    "ride the [night ferry] to the last pier", "watch the [glass blowers] in the harbour street",
    "try on [felt hats] in the covered market", "dance the [polka] in front of the opera",
    "pick [blackberries] along the old railway", "read the [tombstones] of the sailors",
    "eat [lemon ice] on the observatory steps", "visit the [puppet theatre] in the round barn",
    "collect [sea glass] below the lighthouse", "climb the [bell rope] of the ruined chapel",
)  # fmt: skip


CUE = "\nAnswer:"  # behind every question, as in the paper's code


def paragraph(statement: str) -> str:
    """Write a needle as a paragraph of its own, as the paper's code does."""
    return f"\n\n{statement}\n\n"


@dataclass(frozen=True)
class Fact:
    """A needle.

    Attributes:
        statement: the sentence to hide.
        about: the city, by which a question about several facts names this one.
        question: the question about this fact alone.
        answer: words of the statement that an answer must have.
    """

    statement: str
    about: str
    question: str
    answer: str


def draw_facts(rng: Random, count: int) -> list[Fact]:
    """Draw `count` facts, no two with the same city or the same answer."""
    cities, pleasures = rng.sample(CITIES, count), rng.sample(PLEASURES, count)
    return [_fact(city, pleasure) for city, pleasure in zip(cities, pleasures, strict=True)]


MOST_FACTS = min(len(CITIES), len(PLEASURES))


def _fact(city: str, pleasure: str) -> Fact:
    text = pleasure.replace("[", "").replace("]", "")
    answer = pleasure.partition("[")[2].partition("]")[0]
    statement = f"On a free afternoon in {city}, nothing is better than to {text}."
    return Fact(statement, city, f"What is the best thing to do on a free afternoon in {city}?", answer)
