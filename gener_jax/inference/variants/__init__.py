"""Scores variants by the log-likelihood ratio of their alleles; `scoring` defines its direction, a file each protocol.

A variant (`variant`) is found in a `genome`, normalised to a site on a strand (`normalize`) and scored there by
`next_kmer` or `window`; `scoring` averages over strands and phases. `overlap` compares the scored bases with those that
a model was trained on.
"""
