"""Open the point tables of an archive without refusing them, so that a fault becomes a row.

A table is read to its end by the strict reader of ``tasks.points``, whose refusal is the fault; it
joins the table ``files`` of ``tasks.validation.tables``, so the check ``layout`` judges it. What can be
read has every observation checked (``tasks.validation.dpixel_checks``): one row a table in ``points``.
"""

from typing import Any

import pandas as pd

from tasks.errors import DataError
from tasks.ingest import Catalogue
from tasks.points import open_points
from tasks.validation.checks import KEYS
from tasks.validation.dpixel_checks import join, scan
from tasks.validation.tables import fault_columns

Row = dict[str, Any]


def measure_points(catalogue: Catalogue) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read every point table of a catalogue to its end.

    Args:
        catalogue: The archive, as ingested.

    Returns:
        Rows of the table ``files``: tile (the table's path in the archive), sensor and band (empty),
        file, fault (0 or 1), text (what was found); and the table ``points``: tile, sensor, band,
        rows and the columns of ``fault_columns``, one row a table that could be read.

    Raises:
        DigestMismatch: A table changed since the archive was ingested.
    """
    files, points = [], []
    for number, entry in enumerate(catalogue.tables):
        path = catalogue.table(number)
        address = dict(zip(KEYS, (entry.path, "", ""), strict=True))
        fault, text = 0, f"{entry.rows} d-pixels"
        try:
            blocks = open_points(path).blocks()
            found = join((int(rows[0]), scan(dpixels)) for rows, dpixels in blocks)
            points.append(address | {"rows": entry.rows} | fault_columns(found))
        except DataError as error:
            # Without the path: a verdict has the same bytes wherever the archive lies.
            fault = 1
            text = f"{error.found}, not {error.expected}".replace(str(path), path.name)
        row = {"file": path.name, "fault": fault, "text": f"{path.name}: {text}"}
        files.append(address | row)
    return pd.DataFrame(files), pd.DataFrame(points, columns=None if points else list(KEYS))
