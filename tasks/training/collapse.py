"""Notices when the embeddings of a training collapse, while the loss may look well.

The one idea: a rank that stays tiny over many looks is a collapse, a rank that is tiny once is a
batch. It warns and does not stop the run: the downstream probe judges, and a run may recover.
"""

from collections.abc import Mapping

LOW_SHARE = 0.02
"""Effective rank, as a share of the width, below which an embedding counts as collapsed.

Decision: the paper names none. Rows along one line have 1 / width, those of a teacher that learns 0.1
and more."""
_LOOKS = 5


class CollapseWatch:
    """Follows the diagnostics of a run; see ``models.diagnostics``."""

    def __init__(self) -> None:
        self._low = 0

    def observe(self, record: Mapping[str, float]) -> str | None:
        """Take a step's record; return a warning once a collapse has lasted, once for each."""
        share = record.get("effective_rank_share")
        if share is None:
            return None
        self._low = self._low + 1 if share < LOW_SHARE else 0
        if self._low != _LOOKS:
            return None
        return (
            f"the embedding has collapsed: effective rank {record['effective_rank']:.1f}, "
            f"{share:.1%} of its width, at {_LOOKS} looks in a row. Its downstream score will be "
            "poor: lower learning_rate, or raise batch_size or off_diagonal_weight."
        )
