"""Evaluations of a model, and their baselines."""
