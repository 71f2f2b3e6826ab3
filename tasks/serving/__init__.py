"""The servers of a workspace: Prefect with its worker, and the MLflow user interface."""
