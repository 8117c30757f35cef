"""From annotated genomes to ArrayRecord shards: files → regions → splits → records."""
