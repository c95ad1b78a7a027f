"""Training on text that is tokenised while training runs, for data too large to be tokenised first.

    sources
       │         each reader (a worker, or a rank without workers) reads its share of every source   reader
       ▼
    samples
       │         samples are drawn from the sources by weight, and packed block by block             blocks
       ▼
    batches      the loader serves them and keeps the position of every reader                       loader

`data.stream=N` sets the number of samples in a block.
"""
