"""Measurements, one file a job; each prints one JSON line last."""
