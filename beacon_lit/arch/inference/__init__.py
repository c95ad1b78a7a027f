"""Read text into caches and generate from them: functions over `core`.

start           the empty cache
compress        text -> cache, a few windows at a time
generate        the hooks that Hugging Face's `generate` calls
decode          token after token, by calls from cache to cache
decode_static   token after token, in static buffers
decode_rows     token after token, in rows that come and go
static          these buffers, and attention over them
moving          buffers of entries that get another slot when a window closes
closing         how windows close in these buffers
graphs          the same device work again and again, as CUDA graphs
ahead           a step that begins before its tokens are known
cache_names     the name of a cache in each version of transformers
dense           generation by the backbone alone
fingerprint     which model a cache belongs to
lockstep        keep ranks that share a model in step
"""
