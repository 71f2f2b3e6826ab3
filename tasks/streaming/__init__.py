"""Parts of training: a corpus of shards as a stream of windows, from a disk or an object store."""
