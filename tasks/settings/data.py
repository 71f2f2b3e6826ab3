"""Settings of the data stages: the archive, its validation, its shards."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tasks.settings.section import Positive, Section, Share


class SampleParams(Section):
    """The simulated archive that ``data.dvc`` pins."""

    seed: int
    num_tiles: Positive
    tile_size_px: Positive
    years: tuple[int, ...]


class IngestParams(Section):
    """Where the raw archive lies."""

    archive: str
    """Folder of tile folders, relative to the project or absolute."""


class ValidateParams(Section):
    """Limits that need a number; the other expectations are facts of the format."""

    min_optical_dates: Positive
    """Sentinel-2 dates of a tile and year."""
    min_radar_dates: Annotated[int, Field(ge=0)]
    """Sentinel-1 passes of a tile and year, both orbits together; 0 admits tiles without radar."""
    max_undetected_cloud: Share
    """Of the observations marked clear, how many may look like thick cloud."""
    min_clear_share: Share
    """Of all optical observations of a tile, how many must be marked clear."""
    max_dark_dn: Annotated[float, Field(gt=0)]
    """Darkest 2 % of the darkest band, of a tile and of most of its dates, where there is vegetation
    or water, or a step between dates; ground that is bright by itself is not judged."""
    max_order_gain: Annotated[float, Field(gt=0)]
    """How much better another band order may explain a tile; see ``tasks.validation.band_order``."""
    reference: Annotated[str, Field(exclude=True)]
    """``statistics.json`` of an earlier corpus (or its folder), relative to the project or absolute,
    that the packed one is held against; empty for none. It and the limit open a gate and change no
    byte, so the manifests leave them out: nothing is packed again for another limit."""
    max_drift: Annotated[float, Field(ge=0.0, le=1.0, exclude=True)]
    """Largest Kolmogorov-Smirnov distance from the reference; see ``tasks.validation.drift``."""


class PackParams(Section):
    """Shards of d-pixels, shuffled across tiles."""

    seed: int
    rows_per_shard: Positive
    block_rows: Positive
    """Rows of a block, the piece that training reads and checks at once."""
    min_s2: Annotated[int, Field(ge=0)]
    """Fewest optical observations of a d-pixel; 0 accepts an absent sensor."""
    min_s1: Annotated[int, Field(ge=0)]
    """Fewest radar observations, both orbits together."""
    memory_mb: Annotated[int, Field(ge=4, exclude=True)]
    """What the shuffle may hold, beside the program itself. It and the threads change no byte, so the
    manifest leaves them out, and a killed run goes on with others."""
    threads: Annotated[int, Field(ge=1, le=256, exclude=True)]
    """Shards made at once, as far as the memory allows."""
    holdout: str
    """Labels that are kept for evaluation: an archive, or a Parquet table with lon, lat and year,
    relative to the project or absolute; empty for none. See ``tasks.validation.held_out``."""
    holdout_block_m: Annotated[int, Field(ge=10)]
    """Side of the blocks of ground that are left out around labels, in metres."""
    holdout_years: Literal["same", "any"]
    """Whether a block is left out in the label's year alone, or in every year."""

    @model_validator(mode="after")
    def _whole_blocks(self) -> Self:
        if self.rows_per_shard % self.block_rows:
            raise ValueError(
                f"rows_per_shard {self.rows_per_shard} is no multiple of block_rows {self.block_rows}"
            )
        return self
