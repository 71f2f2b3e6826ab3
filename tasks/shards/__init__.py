"""Shards: Arrow files of equal blocks that can be read one by one, from anywhere, verified.

The one idea: a *block* is one Arrow record batch of ``block_rows`` rows (the last block of a corpus
may be shorter). ``blocks.arrow`` says where each block lies in its shard and what its SHA-256 is, so
one range request reads it, from a local disk or an object store, and it is checked before use.
``index.json`` lists the shards with their digests and is written last.

It deliberately does not know where shards are kept or in which order they are read; that is
``tasks.streaming``. Files are uncompressed: what is mapped needs no copy.
"""
