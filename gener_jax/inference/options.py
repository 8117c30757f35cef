"""The choices and defaults of inference, as its functions and the command line take them; imports nothing."""

MODES = ("token", "base")  # what is sampled
POOLINGS = ("last", "mean", "separator", "tokens")
SCORES = ("token", "base")
STRANDS = ("+", "-", "both")
PROTOCOLS = ("next_kmer", "window")  # of variants
PROTOCOL_ALIASES = {"right_edge": "next_kmer", "centred": "window"}  # old name → name
CONTEXT = 8192  # of a variant, in bases
CHECKS = ("auto", "always", "never")  # when variants are compared with the training data
TOKENS, TOKENS_ACCELERATED = 16384, 65536  # per batch, including padding; the second on an accelerator
