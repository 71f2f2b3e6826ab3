"""What is asked of an embedding run, and what came of it."""

from dataclasses import dataclass, field

from tasks.checkpoints import Checkpoint
from tasks.embedding.blocks import Embedded, num_tokens
from tasks.embedding.fidelity import Fidelity, fidelity_text
from tasks.errors import ParamsError
from tasks.progress import Meter


@dataclass(frozen=True, slots=True)
class Options:
    """How to embed."""

    dim: int
    """Coordinates to keep, one of the checkpoint's prefixes."""
    as_codes: bool = False
    """Write int8 codes and scales instead of float32."""
    workers: int = 1
    """Threads, one a core."""
    force: bool = False
    """Leave out the checks of ``tasks.embedding.plausibility``."""


@dataclass(slots=True)
class Report:
    """What came of it."""

    out: str
    embedded: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    """Finished by an earlier run."""
    failed: dict[str, str] = field(default_factory=dict)
    """Tile and reason."""
    dpixels: int = 0
    unobserved: int = 0
    """D-pixels without any observation: no data."""
    tokens: int = 0
    seconds: float = 0.0
    fidelity: dict[str, Fidelity] = field(default_factory=dict)
    """Of each tile that is done, or of the table; empty for float32 itself."""

    def count(self, block: Embedded, meter: Meter) -> Embedded:
        """Take note of a block, and move the progress bar; return the block."""
        meter.advance(len(block.rows), num_tokens(block.observations))
        self.dpixels += len(block.rows)
        self.unobserved += int((~block.observations.any(axis=1)).sum())
        return block

    def render(self) -> str:
        """Return the summary as text."""
        lines = [
            f"{len(self.embedded)} embedded, {len(self.kept)} kept, {len(self.failed)} failed",
            f"{self.dpixels:,} d-pixels ({self.unobserved:,} without any observation), "
            f"{self.tokens:,} tokens in {self.seconds:,.1f} s: "
            f"{self.dpixels / max(self.seconds, 1e-9):,.0f} d-pixels/s",
        ]
        if self.fidelity:
            lines.append(fidelity_text(self.fidelity.values()))
        lines += [f"FAILED {key}: {reason}" for key, reason in self.failed.items()]
        return "\n".join([*lines, f"See {self.out}"])


def check_dim(checkpoint: Checkpoint, options: Options) -> None:
    """Refuse a length that the model was not trained for.

    Raises:
        ParamsError: With the lengths that there are.
    """
    if options.dim not in checkpoint.prefixes:
        raise ParamsError(
            f"a length that the model was trained for: {', '.join(map(str, checkpoint.prefixes))}",
            found=str(options.dim),
            where="--dim",
            mend="Choose one of them.",
        )
