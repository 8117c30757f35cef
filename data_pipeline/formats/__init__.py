"""File formats of sequences and annotations: one reader per format."""
