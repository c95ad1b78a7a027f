"""Words, numbers and identifiers that RULER's samples are made from."""

from collections.abc import Callable, Sequence
from random import Random
from uuid import UUID

from beacon_lit.data.retrieval.passkey import FILLER

NOISE = [FILLER.strip()]  # the sentences of a line of noise


def _list(text: str) -> list[str]:
    return text.split(" ")


ADJECTIVES = _list(
    "ancient blunt brave brisk broad calm cheerful clever clumsy crimson crooked curious damp dark deaf dense dusty "
    "eager early elastic empty exact faint famous fierce firm flat fluffy foggy fragile frozen gentle giant glossy "
    "golden graceful grim hasty heavy hidden hollow honest humble hungry jealous jolly kind lazy loyal lucky "
    "mellow misty modest muddy naive narrow neat nervous noble noisy obscure odd patient polite precise proud "
    "quick quiet ragged rapid rare rigid robust rough rusty salty scarce secret shallow shiny shy silent silver slim "
    "slow smooth sober solid spicy steep stormy strange sturdy subtle swift tame thirsty tidy tiny ugly vague vivid "
    "warm weary wicked wild wise witty young zealous"
)
NOUNS = _list(
    "acorn airport almond anchor apple autumn avenue badge bakery balloon banjo barrel basket beach beetle bell "
    "berry bicycle biscuit blanket bottle bracelet branch bread bridge broom bucket butter cabin cactus camera canal "
    "candle canyon carpet castle cellar cherry chimney circus clock cloud coffee comet copper corner cotton cousin "
    "cradle crystal curtain daisy desert diamond dolphin donkey dragon drawer drum eagle elbow engine envelope falcon "
    "feather fiddle finger flag flute forest fountain garden garlic ghost giraffe glacier glove goblet granite guitar "
    "hammer harbour harvest helmet honey hotel hunter island ivory jacket jewel jungle kettle kitten ladder lagoon "
    "lantern lemon library lizard lobster magnet mango marble market meadow melon mirror monkey mountain museum "
    "mustard needle notebook ocean olive onion orchid oyster paddle painter palace parrot peach pebble pencil pepper "
    "piano pigeon pillow pilot pirate planet plum pocket potato prince pumpkin puzzle pyramid rabbit radio raven "
    "ribbon river robin rocket saddle sailor salmon sandal scissors shadow shelter shovel singer sofa spider spoon "
    "squirrel stadium sugar summit sunset sweater tailor temple thunder ticket tiger tomato tower trumpet "
    "tunnel turtle umbrella uncle valley velvet village violin volcano waffle wagon walnut whistle willow window "
    "winter wizard wolf yacht zebra"
)
VERBS = _list(
    "accept admire agree answer arrive attend avoid begin believe borrow bounce build carry choose climb collect "
    "compare confess cough create dance decide deliver depend describe destroy discover divide enjoy escape explain "
    "follow forget gather guess happen hesitate imagine improve invite jump knock laugh learn listen manage measure "
    "mention notice obey observe offer permit please pretend prevent promise protect punish receive refuse regret "
    "remember repair repeat replace rescue return reveal search send share shout sigh sneeze suggest surprise swim "
    "teach thank travel trust vanish visit wander whisper wonder write yawn"
)

PAIRS = [f"{adjective}-{noun}" for adjective in ADJECTIVES for noun in NOUNS]
SINGLE = [*ADJECTIVES, *NOUNS, *VERBS]
_SYLLABLES = [consonant + vowel for consonant in "bdfghjklmnprstvwz" for vowel in "aeiou"]
_DEPTHS = [round(100 * i / 39) for i in range(40)]  # per cent


def pair(rng: Random) -> str:
    """Draw an adjective with a noun."""
    return rng.choice(PAIRS)


def made_up(rng: Random) -> str:
    """Make up a word of three syllables. All have the same length, so that none is part of another."""
    return "".join(rng.choices(_SYLLABLES, k=3))


def number(rng: Random) -> str:
    """Draw a number of seven digits."""
    return str(rng.randint(1_000_000, 9_999_999))


def uuid(rng: Random) -> str:
    """Draw an identifier, 32 hexadecimal digits in five groups."""
    return str(UUID(int=rng.getrandbits(128), version=4))


def letters(rng: Random, alphabet: str, count: int) -> str:
    """Draw a word without meaning."""
    return "".join(rng.choices(alphabet, k=count))


def distinct(make: Callable[[], str], count: int) -> list[str]:
    """Make `count` different strings."""
    made: dict[str, None] = {}
    while len(made) < count:
        made[make()] = None
    return list(made)


def listed(words: Sequence[str]) -> str:
    """Join words with commas and a final "and"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def between_lines(rng: Random, lines: int, count: int) -> list[int]:
    """Draw places for `count` more lines, each before another of the given lines."""
    return rng.sample(range(lines), count)


def at_depths(rng: Random, sentences: int, count: int) -> list[int]:
    """Draw places for `count` more sentences, at different ones of 40 depths from the start to the end."""
    return [int(sentences * depth / 100) for depth in rng.sample(_DEPTHS, count)]


def hide(told: Sequence[str], lines: list[str], places: Sequence[int]) -> None:
    """Insert the lines `told`, in their order, into `lines` at some places: the number of lines before each."""
    for place, line in reversed(list(zip(sorted(places), told, strict=True))):
        lines.insert(place, line)
