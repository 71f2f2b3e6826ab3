"""What each target must be, looked at before anything is written, and what rounding does to it.

The one idea: an affine-free layer norm ends every encoder, so a target has mean 0 and variance 1 over
its coordinates and lies on a sphere. Whatever does not is named by shard, block, row and pixel id,
before a student learns from it.

It deliberately judges single rows; whether all of them together say anything is ``spread``.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tasks.embedding.blocks import Embedded
from tasks.errors import TargetsUnfit
from tasks.shards.rows import TargetDtype

TOLERANCE = 0.01
"""Share by which a norm may differ from that of the sphere. Decision: a layer norm divides by
sqrt(variance + 1e-5), so a target reaches 0.99 where the teacher's last map varies by 0.02 or more
over the coordinates; far less is rounding noise blown up to look like an embedding."""

Rows = npt.NDArray[np.float32]


@dataclass(slots=True)
class Rounding:
    """What the number format on the disk did to targets, as it is gathered."""

    rows: int = 0
    cosine_min: float = 1.0
    """Of a target as computed with itself as stored."""
    cosine_sum: float = 0.0
    max_abs_error: float = 0.0
    """Of a coordinate."""
    norm_min: float = float("inf")
    """As computed; the square root of the number of coordinates is exact."""
    norm_max: float = 0.0

    def add(self, exact: Rows, stored: Rows) -> None:
        """Compare some targets with themselves as they will be read back, in float64."""
        a, b = exact.astype(np.float64), stored.astype(np.float64)
        norms = np.linalg.norm(a, axis=1)
        cosine = (a * b).sum(axis=1) / (norms * np.linalg.norm(b, axis=1))
        self.merge(
            Rounding(
                len(a),
                min(1.0, float(cosine.min())),
                float(np.minimum(cosine, 1.0).sum()),
                float(np.abs(a - b).max()),
                float(norms.min()),
                float(norms.max()),
            )
        )

    def merge(self, other: "Rounding") -> None:
        """Take what was gathered over other targets as well."""
        self.rows += other.rows
        self.cosine_sum += other.cosine_sum
        self.cosine_min = min(self.cosine_min, other.cosine_min)
        self.max_abs_error = max(self.max_abs_error, other.max_abs_error)
        self.norm_min = min(self.norm_min, other.norm_min)
        self.norm_max = max(self.norm_max, other.norm_max)

    def facts(self) -> dict[str, float]:
        """Return the numbers for people and records; a cosine's distance from 1 keeps its digits."""
        return {
            "cosine_min": self.cosine_min,
            "cosine_mean": self.cosine_sum / self.rows,
            "max_abs_error": self.max_abs_error,
            "norm_min": self.norm_min,
            "norm_max": self.norm_max,
        }


def rounded(targets: Rows, dtype: TargetDtype) -> Rows:
    """Return targets as they will be read back from the disk."""
    return targets.astype(dtype).astype(np.float32)


def require_targets(group: Embedded, *, shard: str, first_block: int, block_rows: int) -> None:
    """Refuse rows that no teacher with a layer norm at its end can have meant.

    Args:
        group: Embeddings of whole blocks, with the pixel ids as ``rows``.
        shard: Name of the d-pixel shard.
        first_block: Number of the group's first block in the corpus.
        block_rows: Rows of a block.

    Raises:
        TargetsUnfit: Names the first such row, and how many of these there are.
    """
    embedding = group.embedding
    finite = np.isfinite(embedding).all(axis=1)
    ideal = np.sqrt(embedding.shape[1])
    with np.errstate(over="ignore", invalid="ignore"):
        norm = np.linalg.norm(embedding.astype(np.float64), axis=1)
        mean = embedding.mean(axis=1, dtype=np.float64)
        on_sphere = (np.abs(norm / ideal - 1.0) <= TOLERANCE) & (np.abs(mean) <= TOLERANCE)
    wrong = np.flatnonzero(~finite | ~on_sphere)
    if not len(wrong):
        return
    row = int(wrong[0])
    unobserved = group.observations[row].sum() == 0
    block, at = divmod(row, block_rows)
    raise TargetsUnfit(
        f"targets of mean 0 and norm {ideal:.4g} within {TOLERANCE:.0%}, as a layer norm makes them",
        found=f"{_describe(embedding[row], float(norm[row]), float(mean[row]))}"
        f" ({len(wrong)} such rows of the {len(embedding)} looked at)",
        where=f"{shard}, block {first_block + block}, row {at}, pixel id {group.rows[row].view(np.uint64)}",
        mend="The d-pixel has no observation: set pack.min_s2 or pack.min_s1 to 1 or more."
        if unobserved
        else "The teacher is damaged or collapsed: choose another checkpoint, or pretrain it again.",
    )


def _describe(target: Rows, norm: float, mean: float) -> str:
    bad = int((~np.isfinite(target)).sum())
    if bad:
        return f"{bad} of {len(target)} coordinates that are no finite numbers"
    return f"mean {mean:.3g}, norm {norm:.4g}"
