"""Losses, optimizer, step, checkpoints and metrics."""
