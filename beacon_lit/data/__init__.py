"""Text to batches: sources -> samples of tokens -> batches of a token budget.

`sources` yields documents (`records` says what they are; `retrieval` makes synthetic ones), `tokenize` turns them into
samples (`text` and `chat`, with `templates` and `answers`, do the two kinds of document), `store` keeps these on disk,
and `samples` chooses among them. `order` says which comes when, `packing` which share a step, `collate` pads them,
`loader` serves the batches and keeps the position. `stream` goes that way with samples that are not kept on disk.
`show` and `statistics` are for looking at it all; `corpus` prepares large data ahead of training.
"""
