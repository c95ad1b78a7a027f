"""Prepares a corpus: raw sources -> pieces of exact lengths -> corpus shards on disk, with a report.

sources
   │     tokenised, in several processes if asked for; malformed records are skipped and counted      tokenizer_pool
documents as token ids
   │     put one behind the other                                                                     token_stream
pieces   of exact lengths, in the amounts and shares that the settings ask for                        amounts
   │
corpus shards   folders that `datasets` reads, each written whole or not at all                       shards
   │
manifest.json   settings, counts, checksums                                                           prepare
report.md       a table and a figure of the same                                                      report
"""
