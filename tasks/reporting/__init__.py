"""The pieces of the report page: facts, charts, maps, and the lineage drawing."""
