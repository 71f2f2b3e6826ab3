"""Whether the targets of a corpus, all together, say enough to distil from.

The one idea: a collapsed teacher has a perfect distillation loss, because a student learns one vector
at once. The covariance of all targets shows it; it is a sum over shards, each shard keeps its part
beside its targets, so nothing is read again to know it.
"""

from typing import Any

import numpy as np
import torch

from models.diagnostics import DEAD_VARIANCE, Moments, spread
from tasks.errors import TargetsUnfit

SHARES = (0.5, 0.9, 0.99)
"""Of the variance; the summary of the spectrum says how many directions hold each."""

_MEND = "Pretrain the teacher again or choose another; if it is as it should be, the limit is in params.yaml"


def describe_spread(moments: Moments) -> dict[str, Any]:
    """Return what the covariance of the targets says about collapse.

    Returns:
        The numbers of ``models.diagnostics.spread``; ``directions``, how many principal directions
        hold each of ``SHARES`` of the variance; ``largest_share``, what the first one holds.
    """
    covariance = moments.covariance
    # float64 leaves tiny negative eigenvalues where a direction is empty.
    falling = np.maximum(torch.linalg.eigvalsh(covariance).numpy()[::-1], 0.0)
    held = np.cumsum(falling) / max(falling.sum(), np.finfo(np.float64).tiny)
    directions = {f"{share:.0%}": int(np.searchsorted(held, share) + 1) for share in SHARES}
    numbers = {name: _digits(value) for name, value in spread(covariance).items()}
    return numbers | {"directions": directions, "largest_share": _digits(float(held[0]))}


def _digits(value: float) -> float:
    """Keep the digits that mean something: the last ones depend on the order of a sum."""
    return float(f"{value:.6g}")


def require_spread(
    moments: Moments, *, min_effective_rank: float, max_dead_share: float, where: str
) -> None:
    """Refuse targets that have collapsed.

    Args:
        moments: Of all targets as stored.
        min_effective_rank: Directions they must spread over.
        max_dead_share: Share of coordinates that may be the same for every d-pixel.
        where: Whose targets they are, for the message.

    Raises:
        TargetsUnfit: They spread over fewer, or more coordinates are the same.
    """
    covariance = moments.covariance
    found, width = spread(covariance), len(covariance)
    if found["effective_rank"] < min_effective_rank:
        raise TargetsUnfit(
            f"targets that spread over at least {min_effective_rank:g} of {width} directions",
            found=f"an effective rank of {found['effective_rank']:.3g} over {moments.count:,} rows",
            where=where,
            mend=f"{_MEND}: cache_targets.min_effective_rank.",
        )
    if found["dead_share"] > max_dead_share:
        variance = covariance.diagonal()
        least = int(variance.argmin())
        raise TargetsUnfit(
            f"at most {max_dead_share:.0%} of the coordinates the same for every d-pixel"
            f" (variance below {DEAD_VARIANCE:g})",
            found=f"{found['dead_share']:.1%} of {width}, e.g. coordinate {least}"
            f" with variance {float(variance[least]):.2g}",
            where=where,
            mend=f"{_MEND}: cache_targets.max_dead_share.",
        )
