"""What a simulated archive is asked to be.

The one configuration object of the simulator. Two configurations that are equal give equal bytes;
``num_tiles`` and ``tile_size_px`` only choose the window on an endless map, so tiles of a small and
of a large archive agree where columns and sizes agree. Numbers that describe nature (spectra, dates
of harvest, speckle) are not settings: they live beside the code that uses them.
"""

from dataclasses import dataclass

from tasks.simulator.randomness import mix

# Sentinel-2B became operational in 2017; Sentinel-1C restored the six-day cycle in 2025.
FIRST_YEAR, LAST_YEAR = 2018, 2024


@dataclass(frozen=True, slots=True)
class SimulatorConfig:
    """Seed, window and weather of a simulated archive."""

    seed: int = 20260101
    """World number: parcels, weather and noise all follow from it."""
    num_tiles: int = 6
    """Tiles per year, laid out row by row on the most square grid."""
    tile_size_px: int = 40
    """Tile side in 10 m pixels; even, because 20 m bands cover 2 x 2 pixels."""
    years: tuple[int, ...] = (2021, 2022)
    """Calendar years, ascending."""
    cloud_cover: float = 0.4
    """Share of pixel-dates with cloud of opacity over a tenth, on the average over many years."""
    parcel_size_px: float = 6.5
    """Typical side of a field in pixels (6.5 px = 0.4 ha; three in ten are joined in pairs)."""

    def __post_init__(self) -> None:
        """Refuse what cannot be simulated.

        Raises:
            ValueError: naming the field, what it must be and what it was.
        """
        _check(0 <= self.seed < 1 << 63, "seed", "0 <= seed < 2**63", self.seed)
        _check(self.num_tiles >= 1, "num_tiles", "at least 1", self.num_tiles)
        even = self.tile_size_px >= 4 and self.tile_size_px % 2 == 0
        _check(even, "tile_size_px", "an even number, at least 4", self.tile_size_px)
        ordered = self.years != () and list(self.years) == sorted(set(self.years))
        _check(ordered, "years", "distinct years in ascending order", self.years)
        known = all(FIRST_YEAR <= year <= LAST_YEAR for year in self.years)
        _check(known, "years", f"years from {FIRST_YEAR} to {LAST_YEAR}", self.years)
        _check(0.1 <= self.cloud_cover <= 0.9, "cloud_cover", "0.1 to 0.9", self.cloud_cover)
        _check(self.parcel_size_px >= 3.0, "parcel_size_px", "at least 3", self.parcel_size_px)

    @property
    def num_columns(self) -> int:
        """Tiles in a row of the layout: the smallest square number's side that holds them all."""
        columns = 1
        while columns * columns < self.num_tiles:
            columns += 1
        return columns

    def origin(self, tile_index: int) -> tuple[int, int]:
        """Return the map pixel (x, y) of a tile's upper left corner.

        Args:
            tile_index: 0 to num_tiles - 1, row by row from the north-west.

        Raises:
            ValueError: if the index is outside that range.
        """
        inside = 0 <= tile_index < self.num_tiles
        _check(inside, "tile_index", f"0 to {self.num_tiles - 1}", tile_index)
        row, column = divmod(tile_index, self.num_columns)
        return column * self.tile_size_px, row * self.tile_size_px

    def key(self, *parts: int) -> int:
        """Return the hash of the seed and a purpose; the root of all randomness."""
        return mix(self.seed, *parts)


def _check(holds: bool, field: str, expected: str, got: object) -> None:
    if not holds:
        raise ValueError(f"{field}: expected {expected}, got {got}")
