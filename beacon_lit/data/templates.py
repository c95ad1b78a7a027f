"""Named chat templates, for models that come without one.

All of them mark what is generated (`{% generation %}`), end-of-turn token included. White space around a content is
stripped where the family's own template strips such space.
"""

import copy
from typing import Any, NamedTuple


class Template(NamedTuple):
    """A chat template.

    Attributes:
        source: Jinja code, as in tokenizers.
        tokens: special tokens that the code writes by name.
    """

    source: str
    tokens: tuple[str, ...] = ()


_CHATML = """
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if message.role == 'assistant' %}
        {%- generation %}{{ message.content + '<|im_end|>' }}{% endgeneration %}
    {%- else %}
        {{- message.content + '<|im_end|>' }}
    {%- endif %}
    {{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

_LLAMA_3 = """
{{- bos_token }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}
    {%- if message.role == 'assistant' %}
        {%- generation %}{{ message.content | trim + '<|eot_id|>' }}{% endgeneration %}
    {%- else %}
        {{- message.content | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""

# The templates below have no separate place for a system message, which opens the first question instead.
_LLAMA_2 = """
{%- set opening = namespace(text='') %}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {%- set opening.text = '<<SYS>>\\n' + message.content | trim + '\\n<</SYS>>\\n\\n' %}
    {%- elif message.role == 'user' %}
        {{- bos_token }}{{ '[INST] ' + opening.text + message.content | trim + ' [/INST]' }}
        {%- set opening.text = '' %}
    {%- else %}
        {%- generation %}{{ ' ' + message.content | trim + ' ' + eos_token }}{% endgeneration %}
    {%- endif %}
{%- endfor %}"""

_MISTRAL = """
{{- bos_token }}
{%- set opening = namespace(text='') %}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {%- set opening.text = message.content | trim + '\\n\\n' %}
    {%- elif message.role == 'user' %}
        {{- '[INST] ' + opening.text + message.content | trim + ' [/INST]' }}
        {%- set opening.text = '' %}
    {%- else %}
        {%- generation %}{{ ' ' + message.content | trim + eos_token }}{% endgeneration %}
    {%- endif %}
{%- endfor %}"""

_VICUNA = """
{{- bos_token }}
{%- if messages[0].role != 'system' %}
    {{- 'A chat between a curious user and an artificial intelligence assistant. ' }}
    {{- "The assistant gives helpful, detailed, and polite answers to the user's questions. " }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {{- message.content | trim + ' ' }}
    {%- elif message.role == 'user' %}
        {{- 'USER: ' + message.content | trim + ' ASSISTANT:' }}
    {%- else %}
        {%- generation %}{{ ' ' + message.content | trim + eos_token }}{% endgeneration %}
    {%- endif %}
{%- endfor %}"""

# Contents alone; the end-of-text token ends an answer.
_PLAIN = """
{{- bos_token }}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {{- message.content | trim + '\\n\\n' }}
    {%- elif message.role == 'user' %}
        {{- message.content | trim }}
    {%- else %}
        {%- generation %}{{ ' ' + message.content | trim + eos_token }}{% endgeneration %}
        {%- if not loop.last %}{{ '\\n' }}{% endif %}
    {%- endif %}
{%- endfor %}"""

TEMPLATES = {
    "chatml": Template(_CHATML, ("<|im_start|>", "<|im_end|>")),
    "llama-2": Template(_LLAMA_2),
    "llama-3": Template(_LLAMA_3, ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    "mistral": Template(_MISTRAL),
    "vicuna": Template(_VICUNA),
    "plain": Template(_PLAIN),
}


def with_template(tokenizer: Any, name: str | None = None) -> Any:
    """Return a copy of a tokenizer with the named chat template.

    Answers end with the template's end-of-turn token, which may differ from the tokenizer's `eos_token` ("<|im_end|>",
    "<|eot_id|>"): generation needs this token as a stop token.

    Args:
        tokenizer: a Hugging Face tokenizer; stays unchanged.
        name: one of `TEMPLATES`; None = the tokenizer's own template, and the tokenizer itself is returned.

    Raises:
        ValueError: an unknown name, None for a tokenizer without a template, or a template whose special tokens the
            tokenizer lacks: such tokens would be split and never stop a generation.
    """
    names = ", ".join(TEMPLATES)
    if name is None:
        if not tokenizer.chat_template:
            raise ValueError(
                f"template=None needs a chat template, and the tokenizer {tokenizer.name_or_path!r} has none: "
                f"choose one of {names}"
            )
        return tokenizer
    if name not in TEMPLATES:
        raise ValueError(f"template={name!r} must be one of {names}, or null for the tokenizer's own")
    template = TEMPLATES[name]
    if lacking := [token for token in template.tokens if not _is_one_token(token, tokenizer)]:
        raise ValueError(f"template={name!r} needs special tokens that {tokenizer.name_or_path!r} lacks: {lacking}")
    if "eos_token" in template.source and tokenizer.eos_token is None:
        raise ValueError(f"template={name!r} needs an eos_token, and {tokenizer.name_or_path!r} has none")
    named = copy.deepcopy(tokenizer)
    named.chat_template = template.source
    return named


def _is_one_token(token: str, tokenizer: Any) -> bool:
    id = tokenizer.convert_tokens_to_ids(token)  # the unknown token's id, or None, if the vocabulary lacks the token
    return tokenizer.convert_ids_to_tokens(id or 0) == token and id in tokenizer.encode(token, add_special_tokens=False)
