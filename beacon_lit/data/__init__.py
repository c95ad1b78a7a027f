"""Text -> batches of a token budget, step by step, with the file of each step.

    sources       files, the hub, pre-tokenised data, synthetic retrieval           sources/, retrieval/
       │
       │          records are read; malformed ones are skipped and counted          records
       ▼
    documents     text, conversations or pre-tokenised ids
       │
       │          conversations go through a chat template; answers are found       conversation, answers, templates
       ▼
    tokens        token ids, and which of them are trained                          tokenize
       │
       │          short text is left out; long text is split, cut or dropped        length_rule
       ▼
    samples       token ids, and their weights in the loss                          sample
       │
       │  either  all samples are stored on disk, then shuffled as a whole          make_stores, store, dataset, order
       │  or      samples are made while training runs, and shuffled in blocks      stream/
       │
       │          samples are packed, up to `max_tokens` in a batch                 packing
       ▼
    batches       padded rows, shared out among ranks from a position on            collate, loader, share

Up to the samples, `make_stores` runs the chain in `workers` (`sample_maker`), several sources side by side.

Beside the chain: `corpus/` prepares pre-tokenised data ahead of training, `show` and `statistics` let people look at
samples, and `checks` checks settings.
"""
