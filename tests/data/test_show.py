import html
import io
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console
from tensorboard.plugin_util import markdown_to_safe_html

from beacon_lit.data.show import STYLES, Segment, colored, markdown, segments
from tests.data import families

BYTES, WORDS = families.chatml(), families.llama_2()
BYTES_OR_WORDS = pytest.mark.parametrize("tokenizer", [BYTES, WORDS], ids=["bytes", "sentence-pieces"])


@dataclass
class Shown:
    """What a sample has to have."""

    id: str
    input_ids: np.ndarray
    weights: np.ndarray


def sample(*parts: tuple[str, float], tokenizer=BYTES) -> Shown:
    """Each part of the text with the weight of its tokens."""
    ids = [tokenizer.encode(text, add_special_tokens=False) for text, _ in parts]
    weights = [np.full(len(part), weight, np.float32) for part, (_, weight) in zip(ids, parts, strict=True)]
    return Shown(
        "a.json:3", np.concatenate([*ids, []]).astype(np.int32), np.concatenate([*weights, np.zeros(0, np.float32)])
    )


PASSKEY = sample(
    ("<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n", 0),
    ("see ", 1),
    ("48", 12.5),
    ("<|im_end|>", 1),
    ("\n", 0),
)


def test_kinds_by_hand() -> None:
    assert segments(PASSKEY, BYTES, 100) == [
        Segment("<|im_start|>", 0, special=True),
        Segment("user↵\nHi there"),
        Segment("<|im_end|>", 0, special=True),
        Segment("↵\n"),
        Segment("<|im_start|>", 0, special=True),
        Segment("assistant↵\n"),
        Segment("see ", 1),
        Segment("48", 2),
        Segment("<|im_end|>", 1, special=True),
        Segment("↵\n"),
    ]


def test_colors() -> None:
    text = colored(PASSKEY, BYTES, width=60)
    styles = {text.plain[span.start : span.end]: str(span.style) for span in text.spans}
    assert styles["see "] == STYLES[1] and styles["48"] == STYLES[2] and styles["assistant↵\n"] == STYLES[0]
    assert styles["<|im_end|>"].startswith(STYLES[1]) and styles["<|im_start|>"].startswith(STYLES[0])
    first, *_, last = text.plain.splitlines()
    assert first == "── a.json:3: 16 tokens, 5 with loss, 2 of them with a weight of up to 12.5 ".ljust(60, "─")
    assert last == "─" * 60
    assert len({*STYLES}) == 3


def test_the_terminal_gets_colors_and_no_commands_from_the_data() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system="standard", width=60)
    console.print(colored(sample(("x\x1b[2J\x07\x9b\r", 0), ("hello", 1)), BYTES, width=60))
    written = out.getvalue()
    assert "x␛[2J␇\\x9b␍" in written and "\x1b[2J" not in written and "\x1b[32mhello" in written


def test_markup_of_rich_is_text() -> None:
    assert "[red]x[/red]" in colored(sample(("[red]x[/red]", 1)), BYTES).plain


@BYTES_OR_WORDS
def test_characters_split_into_tokens_come_back_whole(tokenizer) -> None:
    text = "hello é😀 日本 x"
    for weight in (0, 1, 2):
        (segment,) = segments(sample((text, weight), tokenizer=tokenizer), tokenizer, 100)
        assert segment == Segment(text, weight)
    shown = sample((text, 0), tokenizer=tokenizer)
    inside = next(at for at in range(len(shown.input_ids)) if "\ufffd" in tokenizer.decode(shown.input_ids[: at + 1]))
    shown.weights[inside] = 1  # loss on the first byte of a character alone
    assert [segment.level for segment in segments(shown, tokenizer, 100)] == [0, 1, 0]
    assert "".join(segment.text for segment in segments(shown, tokenizer, 100)) == text


def test_bytes_that_are_no_text_are_shown_as_such() -> None:
    broken = Shown("x", np.array(BYTES.convert_tokens_to_ids(["ð", "ð", "ð", "ð", "ð", "x"])), np.zeros(6))
    (segment,) = segments(broken, BYTES, 100)
    assert "\ufffd" in segment.text and segment.text.endswith("x")


def test_long_context_is_shortened_in_its_middle_and_answers_stay_whole() -> None:
    shown = sample(("hello " * 500, 0), ("fine " * 3, 1), ("there " * 400, 0), ("you too", 1))
    found = segments(shown, BYTES, 25)
    assert [segment.level for segment in found if segment.level] == [1, 1]
    texts = [segment.text if not segment.skipped else f"<{segment.skipped}>" for segment in found]
    kept = 9  # of either long segment: the answers have 4 and 2 tokens, of 25
    assert texts[0] == "hello" + " hello" * 4 and texts[1] == f"<{501 - kept}>"
    assert texts[2].strip() == " ".join(["hello"] * 3) and texts[3].strip() == "fine fine fine"
    assert texts[-1].strip() == "you too"
    plain = colored(shown, BYTES, width=60, max_tokens=25).plain
    assert f" ... {501 - kept} tokens ... ".center(60, "┄") in plain.splitlines()
    assert "... 3,124 tokens ..." in colored(sample(("hello " * 3129, 1)), BYTES, max_tokens=6).plain


@given(
    parts=st.lists(
        st.tuples(st.text(alphabet="ab é日😀\n\x1b", min_size=1, max_size=12), st.sampled_from([0.0, 1.0, 3.0])),
        max_size=6,
    ),
    max_tokens=st.integers(1, 60),
    tokenizer=st.sampled_from([BYTES, WORDS]),
)
@example(parts=[("é", 0.0)], max_tokens=1, tokenizer=BYTES)
def test_every_token_is_shown_or_counted(parts: list, max_tokens: int, tokenizer) -> None:
    shown = sample(*parts, tokenizer=tokenizer)
    found = segments(shown, tokenizer, max_tokens)
    skipped = sum(segment.skipped for segment in found)
    assert max(len(shown.input_ids) - max_tokens - 3 * len(found), 0) <= skipped <= max(len(shown.input_ids) - 1, 0)
    assert not any("\ufffd" in segment.text for segment in found)
    if len(shown.input_ids) <= max_tokens:
        whole = tokenizer.decode(shown.input_ids)
        assert "".join(segment.text for segment in found).replace("↵\n", "\n").replace("␛", "\x1b") == whole


def test_more_segments_than_tokens_to_show() -> None:
    shown = sample(*[("hello ", float(number % 2)) for number in range(100)])
    found = segments(shown, BYTES, 10)
    assert sum(segment.skipped for segment in found) == len(shown.input_ids) - 10


def test_markdown_as_tensorboard_shows_it() -> None:
    shown = sample(("<b>hello</b> &amp; *x* _x_\n\n\n# x\n    ", 0), ("fine <|im_end|>", 1), ("48", 3), ("x " * 190, 0))
    shown.id = "a_b_c*d*<i>|x.json:1"
    page = markdown_to_safe_html(markdown(shown, BYTES, max_tokens=120))
    assert html.unescape(page).startswith("<p>a_b_c*d*<i>|x.json:1: ") and "<i>" not in page
    body = page[page.index("<pre>") :]
    assert "&lt;b&gt;hello&lt;/b&gt; &amp;amp; *x* _x_↵\n↵\n↵\n# x↵\n    " in body
    assert "<strong>fine </strong><strong>&lt;|im_end|&gt;</strong><strong><em>48</em></strong>" in body
    assert " tokens ...\n" in body and body.strip().endswith("</pre>")


@pytest.mark.parametrize(
    ("setting", "value"), [("width", 19), ("width", 80.0), ("max_tokens", 0), ("max_tokens", True)]
)
def test_bad_settings(setting: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"{setting}={value!r} must be an integer, at least"):
        colored(PASSKEY, BYTES, **{setting: value})


def test_nothing_to_show() -> None:
    assert colored(sample(), BYTES, width=40).plain.splitlines()[1:] == ["─" * 40]
