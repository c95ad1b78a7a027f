"""The wording of retrieval samples: several ways to say everything, and names that are in no book."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random


def _list(text: str) -> list[str]:
    return text.split("|" if "|" in text else " ")


_SYLLABLES = _list(
    "ba be bo da del do fa fen ga gor ha hel ja jo ka kel la len lo ma mer mi na nor pa per qua ra rin ro sa sel so ta "
    "ten to tra va vel vi wa wen ya yor za zel"
)
_FIRST_NAMES = _list(
    "Ada Bruno Clara Darius Edith Felix Greta Hugo Irene Jonas Klara Leo Mira Nils Olga Pavel Rosa Simon Tilda Vera"
)
_ADJECTIVES = _list("old quiet green narrow early bright heavy tall pale soft empty broad cold grey plain round")
_NOUNS = _list(
    "garden road mill harbour forest teacher kitchen letter window farmer market bridge meadow lantern cart village "
    "stream baker field wagon orchard tower barn ferry"
)
_VERBS = _list(
    "waits behind|stands near|leads to|looks like|belongs to|is older than|lies beyond|was painted after|passes|"
    "faces|is larger than|was built beside"
)
_TIMES = _list("In spring|By noon|After the rain|On most days|Every autumn|Before dawn|In those years|Late at night")
_PLACES = _list(
    "under the stone bridge|behind the third bookcase|in the cellar of the town hall|on top of the lighthouse|"
    "inside a hollow oak|beside the frozen lake|in a blue tin box|below the kitchen floor|at the end of the pier|"
    "between two church bells|in the glove maker's attic|next to the northern gate"
)
THINGS = _list(
    "compass|violin|chess board|silver spoon|map|telescope|lamp|pocket watch|wooden flute|coin|diary|music box"
)


def name(rng: Random) -> str:
    """A person's: a first name, and a last one that is made up."""
    return f"{rng.choice(_FIRST_NAMES)} {town(rng)}"


def town(rng: Random) -> str:
    """A made-up name of three syllables."""
    return "".join(rng.choices(_SYLLABLES, k=3)).capitalize()


def key(rng: Random) -> str:
    """Two made-up words and a hyphen."""
    return f"{''.join(rng.choices(_SYLLABLES, k=2))}-{''.join(rng.choices(_SYLLABLES, k=3))}"


def number(rng: Random) -> str:
    """Five digits."""
    return str(rng.randint(10_000, 99_999))


def sentence(rng: Random) -> str:
    """One of a few million, none of which says anything."""
    first, second = rng.sample(_NOUNS, 2)
    adjectives = rng.sample(_ADJECTIVES, 2)
    verb, time = rng.choice(_VERBS), rng.choice(_TIMES)
    return f"{time} the {adjectives[0]} {first} {verb} the {adjectives[1]} {second}."


# Of one question, and of several.
ANNOUNCEMENTS = (
    ("", ""),
    (
        "Read the text below. A question about it follows.\n\n",
        "Read the text below. Questions about it follow.\n\n",
    ),
    (
        "Here is a document. Answer the question at its end.\n\n",
        "Here is a document. Answer the questions at its end.\n\n",
    ),
    ("Text:\n\n", "Text:\n\n"),
    (
        "Keep what follows in mind: you will be asked about a detail.\n\n",
        "Keep what follows in mind: you will be asked about some details.\n\n",
    ),
)
TEXT_FOLLOWS = ("Text:\n\n", "Read this text from its first word on:\n\n", "Here is a document.\n\n", "")
STEMS = ("Answer:", "The answer is:", "Reply:", "A:")

PASSKEYS_ANNOUNCEMENT = (
    "Some important facts are hidden in the long and boring text below. Look for them and keep them in mind: "
    "there will be questions about them at the end.\n\n"
)
PASSKEY_ANNOUNCEMENTS = (
    ("", ""),
    (
        "Somewhere in this text is a pass key. Find it and remember it.\n\n",
        "Somewhere in this text are pass keys. Find them and remember whose they are.\n\n",
    ),
    (
        "Most of what follows does not matter. The pass key in it does.\n\n",
        "Most of what follows does not matter. The pass keys in it do.\n\n",
    ),
    ANNOUNCEMENTS[1],
)
# {of}: whose it is, where there are several.
PASSKEY_STATEMENTS = (
    "The pass key{of} is {key}. Do not forget it. {key} is the pass key{of}.",
    "Remember this number: {key}. It is the pass key{of}, {key}.",
    "Here is the pass key{of}: {key}. Keep {key} in mind.",
    "{key} is the pass key{of}. You will be asked for {key} later.",
    "Note the pass key{of} down: {key}. Again, it is {key}.",
)
PASSKEY_QUESTIONS = (
    ("What is the pass key{of}?", "The pass key{of} is"),
    ("Which number is the pass key{of}?", "It is"),
    ("Tell the pass key{of} that the text mentions.", "Pass key:"),
    ("What was the pass key{of} in the text above?", "Answer:"),
    ("Do you remember the pass key{of}?", "Yes, the pass key{of} is"),
)


@dataclass(frozen=True)
class Fact:
    """Ways to tell and to ask one thing. `blanks` fills what is in braces, but for {name}."""

    statements: tuple[str, ...]
    questions: tuple[str, ...]
    answer: str
    blanks: Mapping[str, Callable[[Random], str]]


FACTS = (
    Fact(
        ("{name} keeps the {thing} {place}.", "The {thing} that {name} lost lies {place}."),
        ("Where is the {thing} of {name}?", "Where would you look for the {thing} of {name}?"),
        "{place}",
        {"thing": lambda rng: rng.choice(THINGS), "place": lambda rng: rng.choice(_PLACES)},
    ),
    Fact(
        ("{name} grew up in {town}.", "The childhood of {name} was spent in {town}."),
        ("Where did {name} grow up?", "In which town was {name} a child?"),
        "{town}",
        {"town": town},
    ),
    Fact(
        ("{name} paid {price} crowns for a {thing}.", "For a {thing}, {name} gave {price} crowns."),
        ("How many crowns did {name} pay for a {thing}?", "What did the {thing} cost {name}, in crowns?"),
        "{price}",
        {"thing": lambda rng: rng.choice(THINGS), "price": number},
    ),
    Fact(
        ("The best friend of {name} is called {friend}.", "{name} has a best friend, {friend}."),
        ("Who is the best friend of {name}?", "What is the name of the best friend that {name} has?"),
        "{friend}",
        {"friend": name},
    ),
)

PAIRS = (
    ("{key}: {value}", ("What is the value of {key}?", "Which value stands behind {key}?")),
    ('"{key}": "{value}",', ('Look "{key}" up. What is its value?', 'Which value does "{key}" have?')),
    ("{key} = {value}", ("What does {key} equal?", "Give the value of {key}.")),
    ("The value of {key} is {value}.", ("What is the value of {key}?", "Tell the value of {key}.")),
)

NUMBERS = (
    "The {thing} of {name} has the number {value}.",
    "{value} is the number on the {thing} of {name}.",
    "On the {thing} of {name} one reads the number {value}.",
)
NUMBER_QUESTIONS = (
    (
        "What number does the {thing} of {name} have?",
        "Tell the numbers, each for its {thing}, of {name}, in this order.",
    ),
    ("Which number is on the {thing} of {name}?", "For every {thing}, list its number, in this order: of {name}."),
)

PASSAGES = (
    ("Passage {label}: <<{passage}>>", "Repeat passage {label} word by word."),
    ("--- {label} ---\n{passage}\n--- end ---", "Write out what stands between {label} and the next line of dashes."),
    ("Begin of quote {label}.\n{passage}\nEnd of quote.", "Copy quote {label} exactly."),
)
START_QUESTIONS = (
    "What are the first {count} words of the text?",
    "Repeat the first {count} words of the text.",
    "With which {count} words does the text begin?",
)
AFTER_QUESTIONS = (
    'Which {count} words come right after "{phrase}"?',
    'The text says "{phrase}". Continue with the next {count} words.',
    'Go on for {count} words from here: "{phrase}"',
)
