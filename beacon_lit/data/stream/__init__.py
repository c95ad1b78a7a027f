"""Training on text that is tokenised while it is read, for data too large to be tokenised first.

sources
   │     every reader (a worker of a rank, or a rank without workers) reads a share of every source   reader
samples
   │     drawn from the sources by weight, in blocks that are shuffled and packed                     blocks
batches
   │     served to the training loop; the position of every reader is kept                           loader
"""
