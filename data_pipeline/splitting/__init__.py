"""Assigns regions to splits, and measures how much of the held-out regions occurs in training."""
