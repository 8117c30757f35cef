"""Scores variants by the log-likelihood ratio of their alleles; `protocols` defines the scores and their direction."""
