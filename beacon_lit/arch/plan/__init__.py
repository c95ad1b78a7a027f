"""Plan a call in integers: row lengths, ratios and row states -> windows -> where every query and key comes from.

rows        pack a padded batch
state       counts of a row: what earlier calls have read
ratios      the ratio of each window: passed, or from the policy
windows     which tokens run, which windows close, how many beacons they get
call        all of these for one call of the model
layout      index tensors: each window's queries and keys, and their slots
build       calls -> index tensors
heads       groups of KV heads, each planned by itself
budgets     importance of tokens -> the shares of the KV heads
"""
