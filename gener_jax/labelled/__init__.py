"""Labelled sequences: tables, what their labels mean, splits, and what the splits share."""
