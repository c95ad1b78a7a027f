import pytest

from beacon_lit.evaluation.prompts import cut_middle, make_options, make_prompt
from beacon_lit.tiny import byte_tokenizer as chat_tokenizer
from tests.evaluation.fakes import byte_tokenizer

BOS = 0
DIGITS = "01234567890987654321011223"  # a token each
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def tokenizer(in_template, in_processor):
    made = byte_tokenizer(bos=in_processor)
    made.chat_template = "{{ bos_token }}" * in_template + TEMPLATE
    return made


@pytest.mark.parametrize("in_processor", [False, True])
@pytest.mark.parametrize("in_template", [False, True])
def test_a_beginning_of_sequence_token_is_there_once_at_most(in_template, in_processor):
    made = tokenizer(in_template, in_processor)
    for content in ("Hello.", [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Hello."}]):
        chat = make_prompt(made, content, "chat", answer=" Well")
        assert chat.ids.count(BOS) == in_template == (chat.ids[0] == BOS), "as the template writes it"
        assert made.decode(chat.ids, skip_special_tokens=True).endswith("[user] Hello.\n[assistant] Well")
    plain = make_prompt(made, "Hello.", "plain", answer=" Well")
    assert plain.ids.count(BOS) == in_processor == (plain.ids[0] == BOS)
    assert made.decode(plain.ids, skip_special_tokens=True) == "Hello. Well"


def test_auto_is_a_chat_where_there_is_a_template():
    assert make_prompt(tokenizer(True, True), "Hello.").template == "chat"
    assert make_prompt(byte_tokenizer(), "Hello.").template == "plain"
    with pytest.raises(ValueError, match="template='cat' is not allowed; allowed: auto, chat, plain"):
        make_prompt(byte_tokenizer(), "Hello.", "cat")
    for settings in (dict(template="plain"), dict(template="chat", max_tokens=5)):
        with pytest.raises(ValueError, match="messages are not allowed"):
            make_prompt(tokenizer(True, True), [{"role": "user", "content": "Hello."}], **settings)


@pytest.mark.parametrize("most", [1, 2, 9, 10, 25, 26, 27])
@pytest.mark.parametrize("bos", [False, True])
def test_a_long_text_loses_its_middle(most, bos):
    made, text = byte_tokenizer(bos), DIGITS
    assert len(made(text)["input_ids"]) == 26 + bos
    half = most // 2
    expected = text if most >= 26 + bos else text[: max(half - bos, 0)] + text[26 - half :]
    dropped = 0 if most >= 26 + bos else 26 + bos - 2 * half
    assert cut_middle(made, text, most) == (expected, dropped)
    prompt = make_prompt(made, text, "plain", most, answer="!")
    assert prompt.dropped == dropped
    assert made.decode(prompt.ids, skip_special_tokens=True) == expected + "!" and prompt.ids.count(BOS) == bos


def test_the_template_is_written_around_what_is_left():
    prompt = make_prompt(tokenizer(True, False), DIGITS, "chat", 10)
    assert byte_tokenizer().decode(prompt.ids) == "<s>[user] 0123411223\n[assistant]"
    assert prompt.dropped == 16


def test_options_stand_where_a_model_writes_them():
    prompt, options = make_options(byte_tokenizer(True), "The river. Answer:", "AB")
    assert prompt.ids == byte_tokenizer(True)("The river. Answer:")["input_ids"] and prompt.template == "plain"
    assert [byte_tokenizer().decode(option) for option in options] == [" A", " B"]
    tokenizer = chat_tokenizer()
    prompt, options = make_options(tokenizer, "Which?", ["yes", "no"])
    assert prompt.template == "chat" and [tokenizer.decode(option) for option in options] == ["yes", "no"]
    assert tokenizer.decode(prompt.ids) == "<|im_start|>user\nWhich?<|im_end|>\n<|im_start|>assistant\n"


def test_a_space_that_a_template_writes_is_part_of_an_answer():
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = (
        "{% for message in messages %}{% if message.role == 'user' %}[INST] {{ message.content }} [/INST]"
        "{% else %} {{ message.content }}{{ eos_token }}{% endif %}{% endfor %}"
    )
    prompt, options = make_options(tokenizer, "Which?", "AB", "chat")
    assert tokenizer.decode(prompt.ids) == "[INST] Which? [/INST]"
    assert [tokenizer.decode(option) for option in options] == [" A", " B"]


def test_a_template_that_is_not_there_is_an_error():
    with pytest.raises(ValueError, match="needs a chat template"):
        make_options(byte_tokenizer(), "Which?", "AB", "chat")
    with pytest.raises(ValueError, match="template='chatty' is not allowed; allowed: auto, chat, plain"):
        make_options(byte_tokenizer(), "Which?", "AB", "chatty")
