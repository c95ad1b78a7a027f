"""A model that finds needles by reading: it answers from the sentences that its mode lets it see; and documents."""

import re
from types import SimpleNamespace

import torch

from tests.evaluation.fakes import FakeLM, byte_tokenizer

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
SENTENCES = "The river runs wide. It is cold! Was the mill old? "
_TOLD = re.compile(r"free afternoon in (\w+), nothing is better than to ([^.]*)\.")
_ASKED = re.compile(r"free afternoon in ([^?]*)\?")


def tokenizer(chat=False, bos=False):
    made = byte_tokenizer(bos)
    made.chat_template = TEMPLATE if chat else None
    return made


def documents(tokens):
    texts = [f"Text {name} begins here. " + SENTENCES * 30 for name in ("one", "two", "three")]
    return [(text[:9], tokens(text)["input_ids"]) for text in texts]


class FindingLM(FakeLM):
    """Says what is told of the cities in the last question, as far as it is seen: with "drop" in the last window
    alone. Memory is a cache of ids, which calls with a cache go on from."""

    def __init__(self, tokenizer, **settings):
        super().__init__(**settings)
        self.tokenizer = tokenizer
        self.read: list[int] = []  # tokens that each call has read

    def generate(self, input_ids, attention_mask, generation_config, ratios=None, cache=None, **options):
        before = [] if cache is None else cache.ids
        out = self._answered(input_ids, attention_mask, generation_config, before, ratios != "drop")
        kept = [len(seen) if ratios == "drop" else len(seen) // ratios for seen in out.seen]
        out.past_key_values = SimpleNamespace(
            ids=out.seen[0], select=lambda rows: SimpleNamespace(visible=SimpleNamespace(nbytes=4 * kept[rows[0]]))
        )
        self._record(ratios)
        return out

    def dense_generate(self, input_ids, attention_mask, generation_config, past_key_values=None, **options):
        self._record("dense")
        before = [] if past_key_values is None else past_key_values.ids
        assert input_ids[0, : len(before)].tolist() == before
        whole = input_ids[:, len(before) :], attention_mask[:, len(before) :]
        out = self._answered(*whole, generation_config, before, True)
        out.sequences = torch.cat([input_ids[:, : len(before)], out.sequences], 1)
        out.past_key_values = SimpleNamespace(ids=out.seen[0])
        return out

    def _answered(self, input_ids, attention_mask, config, before, see_all):
        sequences, all_seen = [], []
        for ids, mask in zip(input_ids.tolist(), attention_mask.tolist(), strict=True):
            new = [token for token, is_there in zip(ids, mask, strict=True) if is_there]
            self.read.append(len(new))
            seen = [*before, *new]
            start = 0 if see_all else (len(seen) - 1) // self.beacon.window * self.beacon.window
            text = self.tokenizer.decode(seen[start:])
            told, asked = dict(_TOLD.findall(text)), _ASKED.findall(text)
            cities = re.findall(r"[A-Z]\w+", asked[-1]) if asked else []
            answer = " " + "; ".join(told.get(city, "something") for city in cities)
            said = [*self.tokenizer(answer, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id]
            said = said[: config.max_new_tokens]
            said += [said[-1]] * (config.max_new_tokens - len(said))
            ended = said.index(self.tokenizer.eos_token_id) if self.tokenizer.eos_token_id in said else len(said) - 1
            all_seen.append(seen + said[:ended])
            sequences.append(ids + said)
        return SimpleNamespace(sequences=torch.tensor(sequences), seen=all_seen)
