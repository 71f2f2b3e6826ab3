"""The parts of embedding: blocks through workers, sources, checks, and the files of a tile."""
