"""A chat needs a template that accepts its messages."""

import pytest

from beacon_lit import BeaconChat
from beacon_lit.tiny import byte_tokenizer
from tests.arch.tiny import tiny


def test_a_chat_needs_a_template_that_takes_its_messages() -> None:
    tok = byte_tokenizer()
    lm = tiny("llama", vocab_size=len(tok))
    tok.chat_template = None
    with pytest.raises(ValueError, match=r"no chat template; give one .* BeaconChat\(\.\.\., chat_template=\.\.\.\)"):
        BeaconChat(lm, tok)
    refusing = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('No system!') }}{% endif %}{% endfor %}"
    )
    assert BeaconChat(lm, tok, chat_template=refusing).messages == []
    with pytest.raises(ValueError, match=r"refuses these messages \(system, user\): No system!"):
        BeaconChat(lm, tok, "Be brief.", chat_template=refusing)
    with pytest.raises(ValueError, match="template option day="):
        BeaconChat(lm, tok, chat_template=refusing, day=tok)
