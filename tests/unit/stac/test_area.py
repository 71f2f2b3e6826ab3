"""What is asked for, and what is refused of it."""

import json
from pathlib import Path
from typing import Any

import pytest
import shapely

from tasks.errors import ParamsError
from tasks.stac.area import area_of_bbox, area_of_file, years_of


def test_box_is_west_south_east_north() -> None:
    assert area_of_bbox("5.4,50.9,5.5,51").bounds == (5.4, 50.9, 5.5, 51.0)


def test_box_across_the_antimeridian_is_two() -> None:
    area = area_of_bbox("179.9,-17,-179.8,-16")
    assert area.area == pytest.approx(0.3)
    assert shapely.contains_xy(area, [179.95, -179.9], -16.5).all()
    assert not shapely.contains_xy(area, 0, -16.5)


@pytest.mark.parametrize(
    "text", ["1,2,3", "a,b,c,d", "5,51,6,50", "5,50,5,51", "0,-85,1,-84", "0,0,181,1", "1,nan,2,3"]
)
def test_what_is_no_box_on_the_earth_is_refused(text: str) -> None:
    with pytest.raises(ParamsError, match="--bbox"):
        area_of_bbox(text)


SQUARE = shapely.geometry.mapping(shapely.box(5, 50, 6, 51))


@pytest.mark.parametrize(
    "content",
    [
        SQUARE,
        {"type": "Feature", "properties": {}, "geometry": SQUARE},
        {
            "type": "FeatureCollection",
            "features": [{"type": "Feature", "geometry": SQUARE, "properties": {}}],
        },
    ],
    ids=["geometry", "feature", "collection"],
)
def test_every_kind_of_geojson_is_read(content: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert area_of_file(tmp_path / "a.json").equals(shapely.box(5, 50, 6, 51))


@pytest.mark.parametrize(
    "content",
    [
        "no json",
        "[]",
        '{"type": "Point", "coordinates": [5, 50]}',
        '{"type": "Polygon", "coordinates": [[[6e5, 5e6], [7e5, 5e6], [7e5, 6e6], [6e5, 5e6]]]}',
        '{"type": "FeatureCollection", "features": []}',
        '{"type": "Blot", "coordinates": []}',
    ],
    ids=["text", "list", "point", "metres", "empty", "unknown"],
)
def test_what_is_no_polygon_in_degrees_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ParamsError, match="--geometry"):
        area_of_file(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("text", "years"),
    [("2019", [2019]), ("2021,2019", [2019, 2021]), ("2018-2020, 2019", [2018, 2019, 2020])],
)
def test_years_are_single_ones_and_spans(text: str, years: list[int]) -> None:
    assert years_of(text) == years


@pytest.mark.parametrize("text", ["", "19", "2019-", "2021-2019", "1999", "2019;2020"])
def test_other_years_are_refused(text: str) -> None:
    with pytest.raises(ParamsError, match="--years"):
        years_of(text)
