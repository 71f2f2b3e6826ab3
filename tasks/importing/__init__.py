"""Parts of ``tasks.import_archive``."""
