"""The commands of ``tessera``, grouped by what they work on; ``tasks.cli`` puts them together."""
