"""The loop, engine, checkpoints and records that teacher and students share."""
