"""Plots, each made by a function that returns a matplotlib figure; matplotlib is imported when one is drawn."""
