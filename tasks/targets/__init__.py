"""Parts of `cache_targets`: addresses, the store, one shard's pass, what is refused, upkeep."""
