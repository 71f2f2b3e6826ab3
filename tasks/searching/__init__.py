"""Parts of a search: the trials that are asked for, a project of its own for each, the table."""
