"""From ArrayRecord datasets to batches on the mesh."""
