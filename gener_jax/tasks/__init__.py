"""Tasks: what a model is measured by; and their baselines."""
