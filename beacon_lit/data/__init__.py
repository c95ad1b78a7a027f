"""Text to batches: sources -> samples of tokens -> batches of a token budget.

`sources` yields documents, `tokenize` turns them into samples (`text` and `chat` do the two kinds of document),
`packing` decides which samples share a step, `collate` pads them, `loader` serves the batches and keeps the position.
"""
