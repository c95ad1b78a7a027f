"""The wording of retrieval samples: several patterns for everything that is announced, stated and asked."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from beacon_lit.data.retrieval import made_up

# For one question, and for several.
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
# {of}: whose pass key it is, if there are several.
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
    """Ways to state a fact and to ask for it.

    Attributes:
        statements, questions, answer: patterns with the blank {name}, and the others in braces.
        blanks: makes up what fills each other blank.
        name: makes up whom or what the fact is about.
    """

    statements: tuple[str, ...]
    questions: tuple[str, ...]
    answer: str
    blanks: Mapping[str, Callable[[Random], str]]
    name: Callable[[Random], str] = made_up.name


FACTS = (
    Fact(
        ("{name} keeps the {thing} {place}.", "The {thing} that {name} lost lies {place}."),
        ("Where is the {thing} of {name}?", "Where would you look for the {thing} of {name}?"),
        "{place}",
        {"thing": lambda rng: rng.choice(made_up.THINGS), "place": lambda rng: rng.choice(made_up.PLACES)},
    ),
    Fact(
        ("{name} grew up in {town}.", "The childhood of {name} was spent in {town}."),
        ("Where did {name} grow up?", "In which town was {name} a child?"),
        "{town}",
        {"town": made_up.town},
    ),
    Fact(
        ("{name} paid {price} crowns for a {thing}.", "For a {thing}, {name} gave {price} crowns."),
        ("How many crowns did {name} pay for a {thing}?", "What did the {thing} cost {name}, in crowns?"),
        "{price}",
        {"thing": lambda rng: rng.choice(made_up.THINGS), "price": made_up.number},
    ),
    Fact(
        ("The best friend of {name} is called {friend}.", "{name} has a best friend, {friend}."),
        ("Who is the best friend of {name}?", "What is the name of the best friend that {name} has?"),
        "{friend}",
        {"friend": made_up.name},
    ),
    Fact(
        ("{name} has promised to {deed} before winter.", "Before winter {name} wants to {deed}."),
        ("What has {name} promised to do?", "What will {name} do before winter?"),
        "{deed}",
        {"deed": made_up.deed},
    ),
    Fact(
        ("Nobody owns more {goods} than {name}.", "{name} fills whole rooms with {goods}."),
        ("What does {name} own so many of?", "With what does {name} fill whole rooms?"),
        "{goods}",
        {"goods": made_up.goods},
    ),
    Fact(
        ("The soup that {name} cooks is made of {dish}.", "{name} puts {dish} into the soup."),
        ("What is the soup of {name} made of?", "What does {name} put into the soup?"),
        "{dish}",
        {"dish": made_up.dish},
    ),
    Fact(
        ("Nobody leaves {name} without a look at the {sight}.", "All who come to {name} are shown the {sight}."),
        ("What are visitors shown in {name}?", "What does everybody look at before leaving {name}?"),
        "{sight}",
        {"sight": made_up.sight},
        made_up.town,
    ),
    Fact(
        ("At the fair of {name}, children {deed} for a coin.", "For a coin, children at the fair of {name} {deed}."),
        ("What do children do for a coin at the fair of {name}?", "How do children earn a coin at the fair of {name}?"),
        "{deed}",
        {"deed": made_up.deed},
        made_up.town,
    ),
    Fact(
        ("The traders of {name} are known for their {goods}.", "{name} sends its {goods} all over the country."),
        ("What are the traders of {name} known for?", "What does {name} send all over the country?"),
        "{goods}",
        {"goods": made_up.goods},
        made_up.town,
    ),
    Fact(
        ("The town of {name} burnt down in {year}.", "In {year} a fire destroyed {name}."),
        ("When did {name} burn down?", "In which year was {name} destroyed by fire?"),
        "{year}",
        {"year": made_up.year},
        made_up.town,
    ),
)

PAIRS = (
    ("{key}: {value}", ("What is the value of {key}?", "Which value stands behind {key}?")),
    ('"{key}": "{value}",', ('Look "{key}" up. What is its value?', 'Which value does "{key}" have?')),
    ("{key} = {value}", ("What does {key} equal?", "Give the value of {key}.")),
    ("The value of {key} is {value}.", ("What is the value of {key}?", "Tell the value of {key}.")),
)

# {identifier}: {key} as it is written in code.
CODES = (
    (
        "The {item} of {key} carries the code {code}.",
        ("What code does the {item} of {key} carry?", "Give the code on the {item} of {key}."),
    ),
    ("Note: {item} {key} = {code}", ("Note on {item} {key}?", "What is noted for {item} {key}?")),
    ("{key}'s {item}: {code}.", ("What was written for the {item} of {key}?", "What stands behind {key}'s {item}?")),
    ("For the {item} {key} they wrote down {code} and went on.", ("What did they write down for the {item} {key}?",)),
    (
        '{{"{item}": "{key}", "id": "{code}"}}',
        ('Which id has the {item} "{key}"?', 'What is the id of {item} "{key}"?'),
    ),
    ('def {item}_{identifier}():\n    return "{code}"', ("What does {item}_{identifier}() return?",)),
)
CODE_SEPARATORS = (" {}", "\n{}\n", "\n\n{}\n\n")

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
