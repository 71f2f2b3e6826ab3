"""The parts of reading scenes through STAC catalogues, and of writing such catalogues."""
