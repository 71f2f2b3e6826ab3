"""What is known of a corpus without its data: ``statistics.json`` of a pack, or an archive's tables.

Both are files that somebody hands over, so they are read strictly: counts must fit each other before
anything is computed from them. Which of the two it is, is seen from what is there.
"""

from math import sqrt
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models.bands import S1_BANDS, S2_BANDS
from tasks.errors import DataError, ParamsError
from tasks.validation.checks import KEYS

STATISTICS = "statistics.json"
_MEASURED = ("mean", "clear_share", "valid_share")  # columns that are compared
BANDS_TABLE, SERIES_TABLE = "bands.csv", "series.csv"
NUM_BINS = 256
"""Equal bins of a histogram over 0..65,535 (optical) or 0..32,767 (radar)."""

_NUM_DAYS = 366
_LARGEST = 65535  # stored number

SensorName = Literal["s2", "s1_asc", "s1_desc"]
SENSORS: tuple[SensorName, ...] = ("s2", "s1_asc", "s1_desc")

Count = Annotated[int, Field(ge=0)]
Counts = tuple[Count, ...]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class BandStatistics(_Part):
    """One band over all observations, as exact whole numbers; ``histogram`` counts them all."""

    sum: int
    """Sum of the values."""
    sum_of_squares: Count
    """Sum of their squares."""
    histogram: Annotated[Counts, Field(min_length=NUM_BINS, max_length=NUM_BINS)]
    """Observations by bin."""

    @property
    def mean(self) -> float:
        """Mean of the values; there must be at least one."""
        return self.sum / sum(self.histogram)

    @property
    def std(self) -> float:
        """Standard deviation, from whole numbers as long as they can cancel."""
        num = sum(self.histogram)
        return sqrt(max(num * self.sum_of_squares - self.sum**2, 0)) / num


class Thickness(_Part):
    """How many observations d-pixels have."""

    min: float
    p05: float
    median: float
    p95: float
    max: float
    mean: Annotated[float, Field(ge=0)]

    @property
    def knots(self) -> tuple[float, ...]:
        """Least, 5 %, half, 95 %, most."""
        return (self.min, self.p05, self.median, self.p95, self.max)

    @model_validator(mode="after")
    def _knots_rise(self) -> Self:
        if list(self.knots) != sorted(self.knots):
            raise ValueError(f"quantiles that do not rise: {self.knots}")
        return self


class SensorStatistics(_Part):
    """One sensor of a corpus."""

    observations: Count
    """Of all d-pixels together."""
    days: Annotated[Counts, Field(min_length=_NUM_DAYS, max_length=_NUM_DAYS)]
    """Observations by day of year, from day 1."""
    observations_per_dpixel: Thickness
    """Their spread over the d-pixels."""
    bands: dict[str, BandStatistics]
    """By band name."""

    @model_validator(mode="after")
    def _counts_agree(self) -> Self:
        if sum(self.days) != self.observations:
            raise ValueError(f"{self.observations} observations, {sum(self.days)} by day")
        for name, band in self.bands.items():
            if sum(band.histogram) != self.observations:
                raise ValueError(
                    f"{self.observations} observations, {sum(band.histogram)} of {name}"
                )
            most = self.observations * _LARGEST
            if not (0 <= band.sum <= most and band.sum_of_squares <= most * _LARGEST):
                raise ValueError(f"sums of {name} that {self.observations} values cannot have")
        return self


class Statistics(_Part):
    """A packed corpus, with an observation at least."""

    format: Literal["tessera-statistics/1"]
    dpixels: Annotated[int, Field(ge=1)]
    """Rows of the corpus."""
    sensors: dict[SensorName, SensorStatistics]
    """By sensor; one without observations may be there or not."""

    @model_validator(mode="after")
    def _bands_are_there(self) -> Self:
        if not any(sensor.observations for sensor in self.sensors.values()):
            raise ValueError("no observation of any sensor")
        for name, sensor in self.sensors.items():
            bands = S2_BANDS if name == "s2" else S1_BANDS
            if sensor.observations and set(sensor.bands) != set(bands):
                raise ValueError(
                    f"{name}: expected bands {' '.join(bands)}, got {' '.join(sensor.bands)}"
                )
        return self


def parse_statistics(content: Any, where: str) -> Statistics:
    """Check the content of a ``statistics.json``.

    Args:
        content: The decoded JSON object, or its bytes.
        where: What to name in a message.

    Raises:
        DataError: Not of this format, or counts that do not fit each other.
    """
    try:
        if isinstance(content, bytes):
            return Statistics.model_validate_json(content)
        return Statistics.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(
            "statistics of a corpus, as `tessera-statistics/1`",
            found=f"{place}: {first['msg']}" if place else str(first["msg"]),
            where=where,
            mend="Take the statistics.json of a finished pack.",
        ) from error


def read_corpus(path: Path) -> Statistics | dict[str, pd.DataFrame]:
    """Read what describes a corpus.

    Args:
        path: A ``statistics.json``, a folder that holds one (a pack), or a folder with the tables
            of an archive (the output of ``validate``).

    Returns:
        The statistics, or the tables ``bands`` and ``series`` by name.

    Raises:
        ParamsError: Nothing of that kind is there.
        DataError: It is damaged.
    """
    file = path / STATISTICS if path.is_dir() else path
    if file.is_file():
        return parse_statistics(file.read_bytes(), str(file))
    if (path / BANDS_TABLE).is_file():
        names = {"bands": BANDS_TABLE, "series": SERIES_TABLE}
        return {name: _read_table(path / file_name) for name, file_name in names.items()}
    raise ParamsError(
        f"a {STATISTICS}, a folder with one, or one with {BANDS_TABLE} and {SERIES_TABLE}",
        found="neither" if path.exists() else "no such path",
        where=str(path),
        mend="Name a pack (artifacts/pack) or a validated archive (artifacts/validate).",
    )


def _read_table(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype=dict.fromkeys(KEYS, str), keep_default_na=True)
    except (ValueError, OSError) as error:
        raise _damaged(path, str(error)) from error
    missing = sorted(set(KEYS) - set(table.columns))
    if missing:
        raise _damaged(path, f"no column {', '.join(missing)}")
    if table.empty:
        raise _damaged(path, "no row")
    if odd := [n for n in _MEASURED if n in table and not is_numeric_dtype(table[n])]:
        raise _damaged(path, f"other things than numbers in {odd[0]}")
    numbers = table.drop(columns=list(KEYS)).select_dtypes(include="number").to_numpy(np.float64)
    if np.isinf(numbers).any():
        raise _damaged(path, "an infinite number")
    return table.fillna(dict.fromkeys(KEYS, ""))


def _damaged(path: Path, found: str) -> DataError:
    return DataError(
        "a table of statistics as `validate` writes it",
        found=found,
        where=str(path),
        mend="Validate the archive again: dvc repro validate. Without tiles only its packs compare.",
    )
