"""Compares kvpress_server with kvpress's own pipeline: python kvpress_oracle.py SERVER, in the environment of kvpress.

Prints JSON: method -> for each prompt the answer of the server, of the pipeline, and without compression; keys kept.
"""

import importlib.util
import json
import sys
import tempfile
from random import Random

import torch
from tokenizers import Tokenizer, models
from transformers import DynamicCache, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

TAIL, KEEP, NEW = 30, 90, 8
spec = importlib.util.spec_from_file_location("server", sys.argv[1])
server = importlib.util.module_from_spec(spec)
spec.loader.exec_module(server)


def tiny(folder: str) -> None:
    """Write a random Qwen2. Masked keys of kvpress need queries on one side of a plane: hence the biases, in
    dimensions that hardly turn with the position."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=256, hidden_size=56, intermediate_size=64, num_hidden_layers=3, num_attention_heads=14,
        num_key_value_heads=2, head_dim=16, max_position_embeddings=2048, initializer_range=0.4, eos_token_id=None,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    for layer in model.model.layers:
        bias = torch.randn(14, 16)
        bias[:, [6, 7, 14, 15]] = 8.0
        layer.self_attn.q_proj.bias.data.copy_(bias.flatten())
    model.save_pretrained(folder)
    backend = Tokenizer(models.WordLevel({f"<{i}>": i for i in range(256)}, unk_token="<0>"))
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<0>").save_pretrained(folder)


@torch.no_grad()
def main() -> None:
    """Print what the methods answer."""
    with tempfile.TemporaryDirectory() as folder:
        tiny(folder)
        kvpress, model = server.import_kvpress(folder), server.load(folder, "cpu", "float32")
        tokenizer = server.AutoTokenizer.from_pretrained(folder)
    pipeline = kvpress.KVPressTextGenerationPipeline(model=model, tokenizer=tokenizer)
    rng = Random(0)
    prompts = [[rng.randrange(1, 256) for _ in range(300 + 37 * i)] for i in range(3)]
    asked = [
        {"ids": ids, "tail": TAIL, "keep": KEEP, "max_new_tokens": NEW, "min_new_tokens": 0, "end_tokens": []}
        for ids in prompts
    ]
    uncompressed = server.answers(model, [{**one, "keep": 10**6} for one in asked], None)
    whole = [tokenizer.decode(answer["ids"], skip_special_tokens=True) for answer in uncompressed]
    found = {}
    for name, make in server.METHODS.items():
        ours = list(server.answers(model, asked, lambda share, make=make: make(kvpress, share)))
        model.set_attn_implementation("sdpa")
        theirs = []
        for ids in prompts:
            cache, text = DynamicCache(), ids[:-TAIL]
            torch.manual_seed(0)
            with make(kvpress, 1 - (KEEP + 1e-3) / len(text))(model):
                model.model(input_ids=torch.tensor([text]), past_key_values=cache)
            answer = pipeline.generate_answer(torch.tensor([ids[-TAIL:]]), cache, len(text), NEW)
            theirs.append(answer)
        texts = [tokenizer.decode(answer["ids"], skip_special_tokens=True) for answer in ours]
        found[name] = list(zip(texts, theirs, whole, [answer["kept"] for answer in ours], strict=True))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
