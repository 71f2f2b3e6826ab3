"""The sections of ``params.yaml``, one class for each; the file itself is ``tasks.params``."""
