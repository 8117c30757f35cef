"""Selects the regions of a record that the model is trained on, and counts what is dropped."""
