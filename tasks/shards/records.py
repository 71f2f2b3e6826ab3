"""What an index will say of a shard, as JSON: so a stage that was killed keeps its finished shards."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from tasks.shards.index import Block, ShardEntry


def entry_record(entry: ShardEntry, blocks: Sequence[Block]) -> dict[str, Any]:
    """Return a finished shard's entry and blocks as JSON values."""
    listed = [asdict(block) | {"sha256": block.sha256.hex()} for block in blocks]
    return {"entry": asdict(entry), "blocks": listed}


def entry_of(record: dict[str, Any]) -> tuple[ShardEntry, list[Block]]:
    """Return what ``entry_record`` was given."""
    blocks = [
        Block(**block | {"sha256": bytes.fromhex(block["sha256"])}) for block in record["blocks"]
    ]
    return ShardEntry(**record["entry"]), blocks
