"""Prefect only: order, retries, concurrency and names. No arithmetic and no paths live here."""
