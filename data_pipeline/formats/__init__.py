"""The files that sequences and annotations come in, one reader a format."""
