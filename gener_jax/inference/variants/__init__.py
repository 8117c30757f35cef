"""The effect of a variant, by what a model says of the sequences with and without it."""
