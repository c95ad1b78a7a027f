"""Plan a call in integers: row lengths, ratios and row states -> windows -> where every query and key comes from.

rows        pack a padded batch
state       counts of a row: what earlier calls have read
ratios      the ratio of each window: passed, or from the policy
windows     which tokens run, which windows close, how many beacons they get
call        all of these for one call of the model
layout      index tensors: each window's queries and keys, and their slots
build       calls -> index tensors
references  keys and queries of a call, before they become index tensors
sliding     calls in layers with a sliding window -> references
kinds       what a layer keeps: memory, or a sliding window
heads       groups of KV heads and of layers, each planned by itself
budgets     importance of tokens -> the shares of the KV heads
"""
