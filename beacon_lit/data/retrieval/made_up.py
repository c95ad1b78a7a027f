"""Made-up words for retrieval samples: names, keys, numbers, sentences and other words that fill a fact's blanks."""

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
PLACES = _list(
    "under the stone bridge|behind the third bookcase|in the cellar of the town hall|on top of the lighthouse|"
    "inside a hollow oak|beside the frozen lake|in a blue tin box|below the kitchen floor|at the end of the pier|"
    "between two church bells|in the glove maker's attic|next to the northern gate"
)
THINGS = _list(
    "compass|violin|chess board|silver spoon|map|telescope|lamp|pocket watch|wooden flute|coin|diary|music box"
)
_DEEDS = _list(
    "mend paint carve count sell polish draw weigh collect hide lend wash measure bury trade stack repair label gild"
)
_GOODS = _list(
    "lanterns kettles carts ropes bells barrels saddles mirrors candles baskets ladders anchors drums shutters buttons "
    "pigeons beehives umbrellas clocks kites"
)
_DISHES = _list(
    "lentils|barley|smoked eel|turnips|goat cheese|plums|rye bread|mussels|chestnuts|pickled herring|honey|red cabbage|"
    "mushrooms|quinces|black beans|hazelnuts"
)
_ITEMS = _list("ticket locker invoice parcel licence account booking engine vault file meter badge crate permit")


def name(rng: Random) -> str:
    """Make up a person's name: a real first name and an invented last name."""
    return f"{rng.choice(_FIRST_NAMES)} {town(rng)}"


def town(rng: Random) -> str:
    """Make up the name of a town: three syllables."""
    return "".join(rng.choices(_SYLLABLES, k=3)).capitalize()


def key(rng: Random) -> str:
    """Make up a key: two invented words with a hyphen between."""
    return f"{''.join(rng.choices(_SYLLABLES, k=2))}-{''.join(rng.choices(_SYLLABLES, k=3))}"


def number(rng: Random) -> str:
    """Draw a number of five digits."""
    return str(rng.randint(10_000, 99_999))


def deed(rng: Random) -> str:
    """Make up something to do: a verb and what it is done to."""
    return f"{rng.choice(_DEEDS)} {goods(rng)}"


def goods(rng: Random) -> str:
    """Make up several things of a kind."""
    return f"{rng.choice(_ADJECTIVES)} {rng.choice(_GOODS)}"


def dish(rng: Random) -> str:
    """Make up what a dish is made of: two ingredients."""
    return " and ".join(rng.sample(_DISHES, 2))


def sight(rng: Random) -> str:
    """Make up something to look at, and where it is."""
    return f"{rng.choice(_ADJECTIVES)} {rng.choice(_NOUNS)} {rng.choice(PLACES)}"


def year(rng: Random) -> str:
    """Draw a year."""
    return str(rng.randint(1200, 1999))


def item(rng: Random) -> str:
    """Draw a thing that has a code."""
    return rng.choice(_ITEMS)


def code(rng: Random) -> str:
    """Make up a code: a number of 5 to 10 digits, groups of hexadecimal digits, capitals and digits, or a date."""
    kind = rng.random()
    if kind < 0.5:
        digits = rng.randint(5, 10)
        return str(rng.randint(10 ** (digits - 1), 10**digits - 1))
    if kind < 0.7:
        return "-".join(
            "".join(rng.choices("0123456789abcdef", k=rng.choice((4, 6, 8)))) for _ in range(rng.randint(2, 4))
        )
    if kind < 0.9:
        return "".join(rng.choices("ABCDEFGHJKLMNPQRSTUVWXYZ23456789", k=rng.randint(6, 10)))
    return f"{rng.randint(1, 28)}.{rng.randint(1, 12)}.{rng.randint(1700, 2099)}"


def sentence(rng: Random) -> str:
    """Make up one of a few million meaningless sentences."""
    first, second = rng.sample(_NOUNS, 2)
    adjectives = rng.sample(_ADJECTIVES, 2)
    verb, time = rng.choice(_VERBS), rng.choice(_TIMES)
    return f"{time} the {adjectives[0]} {first} {verb} the {adjectives[1]} {second}."
