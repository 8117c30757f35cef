"""A dataset: what it is built from, how it is built, and what it is on disk."""
