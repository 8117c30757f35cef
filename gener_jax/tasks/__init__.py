"""What a model is measured by, and the baselines beside it."""
