"""What is expected of an archive and of a shard, as data: every check is a bound on a column.

The one idea: the whole suite is a tuple of plain values, so it can be read in one sitting, hashed,
and recorded beside each verdict. Limits that depend on the archive come from ``params.yaml``; those
that are facts of the format or of physics are written here, with where they come from. The checks
know nothing of Great Expectations, which runs them (``tasks.validation.expectations``).

Not detectable, and therefore not claimed: ascending and descending files exchanged, all days
shifted by the same number, two visible bands exchanged on some dates only, an offset left in on
every date of ground without vegetation and water, and cloud over ground as white as cloud.
"""

from dataclasses import asdict, dataclass
from hashlib import sha256

from tasks.files import canonical_json
from tasks.settings.data import ValidateParams
from tasks.validation.band_order import NEIGHBOURS

KEYS = ("tile", "sensor", "band")
"""Columns that address a row in every table; empty text where one does not apply."""

_MAX_NODATA_SHARE = (
    0.002  # DN 0 is "no data"; a clear observation has none. Bilinear rims have few.
)
_MAX_WRAPPED_SHARE = 1e-4  # the brightest glint of a real tile is 17,300
_MAX_FLOOR_SHARE = 0.3  # visible DN of 1 or less over land: 0.1 % in a real tile
_MIN_STD_DN = 20.0  # a year of any land varies by hundreds; a constant or unscaled band does not
_MIN_BRIGHT_DN = 100.0  # 99th percentile of the brightest band; the blue of a dark lake is 150
_MIN_MASK_CONTRAST = -0.02  # masked minus clear share of cloud; 0 where masks hold shadow alone
_MAX_UNMASKED_CLOUD = 0.01  # share of a tile without any mask; a cloudless year has none
_MIN_MASK_FIT = 0.08  # over moved masks; 0.18-0.9 in clean tiles, below -0.07 when mirrored
_MIN_PLACE_FIT = 0.04  # over moved radar; 0.09-0.6 in clean tiles, below 0.04 for another place
_MIN_DETAIL = 1.05  # of a 10 m band over the 20 m ones; 1.25-1.6 in clean tiles, 1.0 exchanged
_MIN_VV_ABOVE_VH = 0.8  # share; co-polarised return is the stronger one: 0.96-1.0 in clean tiles
_MIN_RADAR_STD = 50.0  # code; speckle of four looks alone is about 800
_MAX_VH_MEDIAN = 6000.0  # code, -10 dB; decibels scaled once instead of twice lie above
_MAX_VV_MEDIAN = 9000.0  # code, -2.5 dB: above dense towns
_MIN_HIGH_CODE = {"VV": 500.0, "VH": 100.0}  # 95th percentile; unscaled decibels lie below
_MIN_RADAR_SHARE = 0.02  # of both orbits' observations; one orbit may hardly touch the tile
_MAX_REPEATED_SHARE = 1e-3  # of observations; chance gives one in ten million, of radar alone
_SOME = 1e-9  # more than none
# Of a shard's mean from all shards' mean, for 512 rows, where a random sample stays below 0.1; it
# narrows with the square root of the rows, and so does the limit.
_MAX_DRIFT = 0.25


@dataclass(frozen=True, slots=True)
class Check:
    """One expectation: every value of a column lies within bounds; an empty cell is not judged."""

    name: str
    """What is expected, in a few words with underscores."""
    table: str
    """Table of ``tasks.validation.tables``, or ``shards``."""
    column: str
    """Measured column."""
    low: float | None
    """Lowest value allowed; None for no bound."""
    high: float | None
    """Highest value allowed; None for no bound."""
    why: str
    """What is wrong when it fails."""
    note: str = ""
    """Column whose text says more about what was found."""

    @property
    def expected(self) -> str:
        """The bounds in words."""
        if self.low == self.high:
            return f"{self.column} = {self.low:g}"
        if self.low is None:
            return f"{self.column} <= {self.high:g}"
        if self.high is None:
            return f"{self.column} >= {self.low:g}"
        return f"{self.column} in {self.low:g}..{self.high:g}"


def digest_of_checks(checks: tuple[Check, ...]) -> str:
    """Return the SHA-256 of a suite: names, columns, bounds and words."""
    return sha256(canonical_json([asdict(check) for check in checks]).encode()).hexdigest()


def archive_checks(params: ValidateParams) -> tuple[Check, ...]:
    """Return the suite for an archive of tiles."""
    return (*_layout(params), *_time(params), *_validity(params), *_optical(params), *_radar())


def _layout(params: ValidateParams) -> tuple[Check, ...]:
    return (
        Check("layout", "files", "fault", 0, 0, "the tile layout", "text"),
        Check(
            "no_copies", "tiles", "copied_files", 0, 0, "another tile has the same file", "copied"
        ),
        Check(
            "radar_dates", "tiles", "radar_dates", params.min_radar_dates, None, "too few passes"
        ),
        Check(
            "radar_share", "tiles", "radar_share", _MIN_RADAR_SHARE, None, "hardly any radar data"
        ),
        Check("region", "tiles", "region_share", 1e-6, None, "no pixel belongs to the tile"),
        Check("no_nan", "bands", "nan_share", 0, 0, "numbers are not finite"),
    )


def _time(params: ValidateParams) -> tuple[Check, ...]:
    dates = params.min_optical_dates
    return (
        Check("optical_dates", "series", "optical_dates", dates, None, "too few dates in the year"),
        Check("doy_first", "series", "doy_min", 1, None, "days of year begin with 1"),
        Check("doy_last", "series", "doy_max", None, 366, "days of year end with 366"),
        Check("doy_in_year", "series", "days_past_year", 0, 0, "days after the year's last one"),
        Check("no_duplicate_dates", "series", "duplicate_dates", 0, 0, "a day is there twice"),
        Check("dates_rise", "series", "unsorted_dates", 0, 0, "days are not in order"),
        Check("no_repeated_images", "series", "repeated_dates", 0, 0, "an image is there twice"),
    )


def _validity(params: ValidateParams) -> tuple[Check, ...]:
    clear, cloud = params.min_clear_share, params.max_undetected_cloud
    wrong = "the masks are of another tile, or turned"
    elsewhere = "radar and optical images are of different tiles, or one is turned"
    return (
        Check("flags_0_or_1", "series", "bad_flags", 0, 0, "masks hold other values than 0 and 1"),
        Check("clear_share", "series", "clear_share", clear, None, "hardly anything is clear"),
        Check(
            "some_masked",
            "series",
            "unmasked_cloud",
            None,
            _MAX_UNMASKED_CLOUD,
            "everything is marked clear, and there is cloud",
        ),
        Check("clouds_masked", "series", "undetected_cloud", None, cloud, "cloud marked as clear"),
        Check("clouded_dates_masked", "series", "clouded_dates", 0, 0, "a clouded date, all clear"),
        Check(
            "mask_polarity",
            "series",
            "mask_contrast",
            _MIN_MASK_CONTRAST,
            None,
            "clear observations look cloudier than masked ones: 1 must mean clear",
        ),
        Check("masks_fit_images", "series", "mask_fit", _MIN_MASK_FIT, None, wrong),
        Check("radar_fits_images", "series", "place_fit", _MIN_PLACE_FIT, None, elsewhere),
    )


def _optical(params: ValidateParams) -> tuple[Check, ...]:
    offset, gain = "the baseline offset of 1000 was not subtracted", params.max_order_gain
    bands = (
        Check("no_data_masked", "bands", "nodata_share", None, _MAX_NODATA_SHARE, "0 marked clear"),
        Check("no_overflow", "bands", "wrapped_share", None, _MAX_WRAPPED_SHARE, "DN wrapped"),
        Check("varies", "bands", "std", _MIN_STD_DN, None, "constant, or of another scale"),
        Check("band_order", "bands", "order_gain", None, gain, "bands exchanged", "looks_like"),
        Check("detail_10m", "bands", "detail", _MIN_DETAIL, None, "a 20 m band in a 10 m place"),
    )
    floor = Check(
        "not_floored", "bands", "visible_floor", None, _MAX_FLOOR_SHARE, "offset subtracted twice"
    )
    dark = params.max_dark_dn
    series = (
        Check("dark_targets", "series", "dark_dn", None, dark, offset, "dark_band"),
        Check("dark_dates", "series", "lifted_date_dn", None, dark, offset),
        Check("scale", "series", "bright_dn", _MIN_BRIGHT_DN, None, "not reflectance x 10,000"),
    )
    ratios = tuple(
        Check(f"level_{band}_to_{other}", "bands", f"ratio_{band}", low, high, "no land spectrum")
        for band, (other, low, high) in NEIGHBOURS.items()
    )
    return (*series, *bands, floor, *ratios)


def _radar() -> tuple[Check, ...]:
    low = tuple(
        Check(f"scale_{band}", "bands", f"high_{band}", limit, None, "not (20 log10 + 50) x 200")
        for band, limit in _MIN_HIGH_CODE.items()
    )
    return (
        Check(
            "polarisation_order", "series", "vv_above_vh", _MIN_VV_ABOVE_VH, None, "VV, VH swapped"
        ),
        Check("radar_valid", "series", "valid_share", _SOME, None, "an orbit without data"),
        Check("code_range", "bands", "code_min", 0, None, "a negative code"),
        Check("code_limit", "bands", "code_max", None, 32767, "a code above 32,767"),
        Check("radar_varies", "bands", "code_std", _MIN_RADAR_STD, None, "constant, or unscaled"),
        Check("level_VV", "bands", "median_VV", None, _MAX_VV_MEDIAN, "not (20 log10 + 50) x 200"),
        Check("level_VH", "bands", "median_VH", None, _MAX_VH_MEDIAN, "not (20 log10 + 50) x 200"),
        *low,
    )


def shard_checks() -> tuple[Check, ...]:
    """Return the suite for the shards that ``pack`` writes; limits are facts of the format."""
    return (
        Check("rows", "shards", "rows", 1, None, "an empty shard"),
        Check("tiles", "shards", "tiles", 1, None, "a shard of no tile"),
        Check("observations", "shards", "observations", 1, None, "no observation at all"),
        Check("doy_first", "shards", "doy_min", 1, None, "days of year begin with 1"),
        Check("doy_last", "shards", "doy_max", None, 366, "days of year end with 366"),
        *dpixel_checks("shards"),
        Check("no_thin", "shards", "thin", 0, 0, "a d-pixel of too few observations", "first_thin"),
        Check(
            "shuffled", "shards", "drift", None, _MAX_DRIFT, "not a random sample of the archive"
        ),
    )


def dpixel_checks(table: str) -> tuple[Check, ...]:
    """Return the suite for single observations, by the columns of ``tables.fault_columns``.

    Args:
        table: Table that the columns are in.
    """
    none = {
        "duplicate_ids": "a d-pixel is there twice",
        "unordered": "days of a d-pixel do not rise",
        "negative_code": "a radar code below 0",
        "empty_radar": "radar codes 0 0 mean that nothing was observed",
    }
    few = {
        "zero_dn": (_MAX_NODATA_SHARE, "a digital number of 0 over land is no measurement"),
        "saturated": (_MAX_WRAPPED_SHARE, "radar codes at their limit, 57 dB"),
        "repeated": (_MAX_REPEATED_SHARE, "an observation equals the one before in every band"),
    }
    return (
        *(Check(f"no_{k}", table, k, 0, 0, why, f"first_{k}") for k, why in none.items()),
        *(
            Check(f"few_{k}", table, f"{k}_share", None, limit, why, f"first_{k}")
            for k, (limit, why) in few.items()
        ),
    )
