"""A world of fields, forests and lakes seen by Sentinel-1 and 2: the same bytes everywhere."""
