"""Datasets: their inputs, how they are built, and their format on disk."""
