"""Chat templates of many kinds, and the text that is trained with them."""

import numpy as np

from beacon_lit.data.conversation import tokenize_conversation

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def chatml_marked(answer: str) -> str:
    return (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
        + answer
        + "{% else %}{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


MARKED = {
    "content": chatml_marked("{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>\n"),
    "turn and line break": chatml_marked("{% generation %}{{ m.content }}<|im_end|>\n\n{% endgeneration %}"),
    "turn": chatml_marked("{% generation %}{{ m.content }}<|im_end|>{%- endgeneration %}\n"),
}
MARKED_MISTRAL = (
    "{% for m in messages %}{% if m.role == 'user' %}[INST]{{ m.content }}[/INST]"
    "{% else %}{% generation %}{{ m.content }}{% endgeneration %}</s>{% endif %}{% endfor %}"
)
# Strips contents; an end of text behind every answer; the system message goes into the *last* user message.
MISTRAL = (
    "<s>{% set system = messages[0].content if messages[0].role == 'system' else '' %}{% for m in messages %}"
    "{% if m.role == 'user' %}[INST] "
    "{% if system and m == (messages | selectattr('role', 'equalto', 'user') | list)[-1] %}"
    "{{ system }}\n\n{% endif %}{{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content | trim }}</s>{% endif %}{% endfor %}"
)
# The last answer is preceded by an empty thought, earlier ones are not.
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Where a mark is cannot be told from how much has been written when it is.
MARKED_IN_MACRO = (
    "{% macro turn(m) %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}"
    "{{ '\n' }}{% endmacro %}{% for m in messages %}{{ turn(m) }}{% endfor %}"
)
EOS_AT_THE_END = CHATML.replace("{% endfor %}", "{% if loop.last %}<|endoftext|>{% endif %}{% endfor %}")
WORDED_END = CHATML.replace("<|im_end|>", "\n### End\n\n")
# Knows nothing of generation prompts, and keeps the white space around contents.
NO_PROMPT = (
    "{% for m in messages %}{{ m.role }}:{{ ' ' + m.content }}{{ '</s>' if m.role == 'assistant' }}\n\n{% endfor %}"
)
PLAIN = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
TWO_TURNS = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "hello there"},
    {"role": "assistant", "content": "fine, hello there"},
    {"role": "user", "content": "how are you?"},
    {"role": "assistant", "content": " fine! \n"},
]


def spans(conversation: list[dict], tokenizer, template: str) -> list[str]:
    """What is trained, one string for each run of trained tokens."""
    tokenizer.chat_template = template
    ids, trained = tokenize_conversation(conversation, tokenizer)
    assert trained.dtype == bool and trained.shape == (len(ids),)
    assert ids == tokenizer.apply_chat_template(conversation, return_dict=True)["input_ids"]
    edges = np.flatnonzero(np.diff(np.concatenate([[0], trained, [0]]))).reshape(-1, 2)
    return [tokenizer.decode(ids[first:last]) for first, last in edges]
