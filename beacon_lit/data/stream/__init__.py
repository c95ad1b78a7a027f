"""Training on data that is tokenised as it is read, for what is too large to be tokenised first.

Every process that reads (a worker of a rank, or a rank without workers) has a share of every source: `reader` makes it
an endless stream of samples. `blocks` draws these from the sources by weight, a block at a time, and packs each block;
`loader` serves the batches and keeps the position.
"""
