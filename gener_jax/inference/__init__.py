"""A loaded model and what is asked of it: generation, likelihoods."""
