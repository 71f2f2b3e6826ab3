"""One verb per file: what the pipeline does, independent of who starts it.

Every stage is run as ``python -m tasks.<stage>`` by DVC or by a Prefect task; no module here knows
Prefect. Heavy libraries have one importer each (see ``docs/architecture.md``).
"""
