"""From annotated genomes to ArrayRecord shards: files → records → regions → splits → entries."""
