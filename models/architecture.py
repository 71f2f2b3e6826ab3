"""The sizes of a model as frozen data; no torch here, so that settings load in no time.

Names and defaults follow the released checkpoints: ``latent`` is a quarter of the width ``d`` of a
branch. Presets that the paper or the release publish are in ``models.student`` and
``models.teacher``.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TeacherConfig:
    """Architecture of a teacher. Source: TESSERA v2, section 4 and figure 3a.

    Raises:
        ValueError: A size is not positive, or the width is not divisible by the heads.
    """

    latent: int
    """A quarter of the branch width."""
    layers: int
    """Transformer layers of each branch."""
    heads: int
    """Attention heads of each branch layer."""
    feedforward: int
    """Hidden width of each branch layer's feed-forward block."""
    repr_dim: int
    """Length of the embedding: 768 in the paper, 1024 in the release."""
    fusion_layers: int = 2
    """Layers of the fusion Transformer over the two modality tokens."""
    fusion_heads: int = 4
    """Attention heads of each fusion layer."""

    def __post_init__(self) -> None:
        for name in ("latent", "layers", "heads", "feedforward", "repr_dim", "fusion_heads"):
            require_positive(name, getattr(self, name))
        if self.fusion_layers < 0:
            raise ValueError(f"expected fusion_layers of at least 0, got {self.fusion_layers}")
        require_divisible(self.width, self.heads)
        require_divisible(self.width, self.fusion_heads)

    @property
    def width(self) -> int:
        """Width ``d`` of a branch."""
        return 4 * self.latent


@dataclass(frozen=True, slots=True)
class StudentConfig:
    """Architecture of a student, in the released form. Source: TESSERA v2, section 5.

    Raises:
        ValueError: A size is not positive, the width is not divisible by the heads, or the
            prefixes do not rise to ``repr_dim``.
    """

    latent: int
    """A quarter of the branch width."""
    layers: int
    """Transformer layers of each branch."""
    heads: int
    """Attention heads of each layer."""
    feedforward: int
    """Hidden width of each layer's feed-forward block."""
    repr_dim: int = 128
    """Length of the embedding."""
    prefixes: tuple[int, ...] = (16, 32, 64, 128)
    """Prefix lengths that distillation trains to be usable alone."""
    qk_norm: bool = False
    """RMS-normalise queries and keys per head."""

    def __post_init__(self) -> None:
        for name in ("latent", "layers", "heads", "feedforward", "repr_dim"):
            require_positive(name, getattr(self, name))
        require_divisible(self.width, self.heads)
        rising = list(self.prefixes) == sorted(set(self.prefixes))
        if not rising or min(self.prefixes, default=0) < 1 or self.prefixes[-1] != self.repr_dim:
            raise ValueError(
                f"expected prefixes of at least 1 rising to repr_dim {self.repr_dim}, got {self.prefixes}"
            )

    @property
    def width(self) -> int:
        """Width ``d`` of a branch."""
        return 4 * self.latent


def require_positive(name: str, value: int) -> None:
    """Refuse a size below one.

    Raises:
        ValueError: With the name of the setting and what came.
    """
    if value < 1:
        raise ValueError(f"expected {name} of at least 1, got {value}")


def require_divisible(width: int, heads: int) -> None:
    """Refuse a width that the heads cannot share evenly.

    Raises:
        ValueError: With both numbers.
    """
    if width % heads:
        raise ValueError(f"expected width {width} to be a multiple of the {heads} heads")
