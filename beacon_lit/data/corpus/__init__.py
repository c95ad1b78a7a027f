"""A corpus made ready: raw sources -> packed pieces of given lengths -> shards on disk, with a report."""
