"""What is measured of an archive, what is expected of it, and the verdict."""
