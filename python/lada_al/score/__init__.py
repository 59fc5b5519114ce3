"""`lada score`: scores a pool of any size in constant memory and finds the items to label first.

The pool is cut into shards. The scores of a shard become a Parquet file when the shard is done, all at once; the exact
top k of all shards is kept as they are done. The network sees the same images together whatever the settings are, so
scores do not depend on them.
"""
