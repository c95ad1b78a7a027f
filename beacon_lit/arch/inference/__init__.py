"""Caches and generation: functions over `core`.

start         the empty cache
compress      text -> cache, a few windows at a time
generate      what Hugging Face's `generate` asks of a model
decode        token after token, by calls or in static buffers (`static`)
dense         the backbone alone
fingerprint   which model a cache belongs to
lockstep      ranks that share a model do the same
"""
