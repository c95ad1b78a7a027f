"""Prepares a corpus: raw sources -> pieces of exact lengths -> corpus shards on disk, with a report.

    sources
       │             documents are tokenised, in several processes if asked for       tokenizer_pool
       ▼
    documents        token ids, which are put one behind the other                    token_stream
       │
       │             amounts and shares decide how many pieces of which length        corpus, amounts
       ▼
    pieces           token ids of exact lengths
       │
       ▼
    corpus shards    folders that `datasets` reads, each written whole or not at all  shards
       │
       ▼
    manifest.json    settings, counts and checksums                                   manifest
    report.md        a table and a figure of the manifest                             report

`prepare` runs all steps, and continues an interrupted run.
"""
