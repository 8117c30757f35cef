"""The choices, ranges and defaults of inference, as its functions and the command line take them; needs no jax."""

from data_pipeline.ranges import Real, Whole

MODES = ("token", "base")  # what is sampled
POOLINGS = ("last", "mean", "separator", "tokens")
SCORES = ("token", "base")
WEIGHTS = ("float32", "bfloat16", "int8")  # in which a model is held; see `weights`
STRANDS = ("+", "-", "both")
PROTOCOLS = ("next_kmer", "window", "equal_window")  # of variants
PROTOCOL_ALIASES = {"right_edge": "next_kmer", "centred": "window"}  # old name → name
CONTEXT = 8192  # of a variant, in bases
CHECKS = ("auto", "always", "never")  # when variants are compared with the training data


class _Fraction(Real):
    def __str__(self) -> str:
        return "a fraction from 0 to 1 (30 % is 0.3)"


FRACTION = _Fraction(least=0, most=1)
HOMOPOLYMER = Whole(1, 1000)  # bases; each takes four states
TOKENS, TOKENS_ACCELERATED = 16384, 65536  # per batch, including padding; the second on an accelerator
