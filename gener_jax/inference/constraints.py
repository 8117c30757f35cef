"""Constraints on a generated sequence: longest homopolymer, forbidden motifs, GC content, an open reading frame.

One automaton over bases recognizes motifs and homopolymers, another the reading frame. Both are composed over the bases
of each k-mer beforehand, so that a decoding step looks up which tokens are allowed in the state of each row. The state
includes the bases of the prompt and of earlier tokens.
"""

import dataclasses
import functools
import math

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from data_pipeline.sequence import bases, translation
from data_pipeline.sequence.tokenizer import Tokenizer
from gener_jax.inference.prompt import Encoded
from gener_jax.runtime.errors import InputError

_IUPAC = {
    "A": "A", "C": "C", "G": "G", "T": "T", "U": "T", "R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT", "M": "AC",
    "B": "CGT", "D": "AGT", "H": "ACT", "V": "ACG", "N": "ACGT",
}  # fmt: skip
_MAX_STATES = 4096
SLACK = 12  # bases by which G + C may be outside its range at the beginning of a continuation


@dataclasses.dataclass(frozen=True)
class Constraints:
    """Constraints on the DNA at the end of the prompt and the continuation together; `gc`, on the continuation alone.

    Args:
      max_homopolymer: longest homopolymer, in bases.
      forbidden_motifs: motifs that must not occur on either strand, in IUPAC letters, such as restriction sites
        ("GAATTC").
      gc: minimum and maximum GC content of the whole continuation, as fractions. During generation GC stays within a
        few bases of this range, so that the last bases need not correct it.
      min_orf_length: no stop codon may begin within this number of bases of the reading frame. The frame begins with
        the DNA at the end of the prompt (after its last special token), or with the continuation if there is none.
      stop_codon: whether a row ends after the first stop codon in that frame.
      genetic_code: NCBI's number of the genetic code of the frame.

    Raises:
      InputError: if a value is invalid.
    """

    max_homopolymer: int | None = None
    forbidden_motifs: tuple[str, ...] = ()
    gc: tuple[float, float] | None = None
    min_orf_length: int = 0
    stop_codon: bool = False
    genetic_code: int = 1

    def __post_init__(self):
        if self.max_homopolymer is not None and self.max_homopolymer < 1:
            raise InputError("must be positive", "max_homopolymer", self.max_homopolymer)
        if isinstance(self.forbidden_motifs, str):
            raise InputError("must be a list of motifs, not a string", "forbidden_motifs", self.forbidden_motifs)
        for motif in self.forbidden_motifs:
            if not motif or set(motif.upper()) - _IUPAC.keys():
                raise InputError(
                    f"motif {motif!r} must consist of IUPAC letters ({''.join(_IUPAC)})",
                    "forbidden_motifs",
                    self.forbidden_motifs,
                )
        if self.gc is not None and not (len(self.gc) == 2 and 0 <= self.gc[0] <= self.gc[1] <= 1):
            raise InputError("must be the minimum and maximum GC fraction, from 0 to 1", "gc", self.gc)
        if self.min_orf_length < 0:
            raise InputError("must not be negative", "min_orf_length", self.min_orf_length)
        if not translation.known_code(self.genetic_code):
            raise InputError("NCBI has no such genetic code", "genetic_code", self.genetic_code)

    def any(self) -> bool:
        """Whether any constraint is set."""
        return self != Constraints(genetic_code=self.genetic_code)


@struct.dataclass
class Tables:
    """The automata over tokens, and the bounds. Dimension key: S states, V vocabulary, k bases per token."""

    motif_next: Int[Array, "S V"]  # next state
    motif_bad: Bool[Array, "S V"]  # whether the token completes a motif
    frame_next: Int[Array, "S V"]  # next state
    frame_stop: Int[Array, "S V"]  # bases of the token up to the end of its first stop codon; 0: there is none
    gc: Int[Array, "k+1 V"]  # number of G and C among the first 0 … k bases of the token
    gc_range: Float[Array, "2"]  # minimum and maximum fraction
    gc_bounds: Int[Array, "2"]  # minimum and maximum number of G and C in the whole continuation
    min_orf_length: Int[Array, ""]
    ends_at_stop: Bool[Array, ""]


def tables(
    constraints: Constraints, tokenizer: Tokenizer, num_bases: int, prompts: list[Encoded]
) -> tuple[Tables, np.ndarray]:
    """The tables for `num_bases` bases over a k-mer vocabulary, in numpy, and the prompts' start states, int32 [U, 3].

    Each of the U prompts has its own start state, in which a token's first bases are the left-over ones; a motif or
    stop codon that ends in the prompt's own bases is not counted. The three start values are the states of the motif
    and frame automata, and the bases of the frame in whole tokens.

    Raises:
      InputError: if `gc` allows no whole number of G and C, or `avoid` needs too many states.
    """
    low, high = constraints.gc or (0, 1)
    least, largest = math.ceil(low * num_bases - 1e-6), math.floor(high * num_bases + 1e-6)
    if least > largest:
        raise InputError(f"no whole number of G and C of {num_bases} bases is in this range", "gc", constraints.gc)
    k, special = tokenizer.k, tokenizer.vocab_size - 4**tokenizer.k
    motifs = _motifs(constraints.max_homopolymer, tuple(sorted(m.upper() for m in constraints.forbidden_motifs)))
    motif_next, ends, motif_starts = _over_tokens(*motifs, k, special, prompts)
    frame_next, stops, frame_starts = _over_tokens(*_frame(constraints.genetic_code), k, special, prompts)
    begin = np.array([motif_starts, frame_starts, [len(prompt.whole) for prompt in prompts]], np.int32).reshape(3, -1).T
    is_gc = np.isin(np.arange(4**k)[:, None] // 4 ** np.arange(k - 1, -1, -1) % 4, (bases.C, bases.G))
    gc = np.zeros((k + 1, special + 4**k), np.int32)
    gc[1:, special:] = np.cumsum(is_gc, axis=1).T
    return Tables(
        motif_next, ends > 0, frame_next, stops, gc, np.array([low, high], np.float32),
        np.array([least, largest], np.int32), np.int32(constraints.min_orf_length), np.bool_(constraints.stop_codon),
    ), begin  # fmt: skip


@functools.lru_cache(maxsize=64)
def _motifs(max_homopolymer: int | None, forbidden_motifs: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The next state for each state and base, int32 [S, 5], and whether a motif ends there, bool [S, 5].

    A state is a set of partial matches (motif, letters matched): the subset construction, which for motifs of A, C, G
    and T gives the automaton of Aho and Corasick.
    """
    complement = dict(zip("ACGTRYSWKMBDHVN", "TGCAYRSWMKVHDBN", strict=True))
    motifs = {m.replace("U", "T") for m in forbidden_motifs}
    motifs |= {"".join(complement[c] for c in reversed(m)) for m in motifs}
    if max_homopolymer is not None:
        motifs |= {base * (max_homopolymer + 1) for base in "ACGT"}
    sets = [[{bases.LETTERS.index(b) for b in _IUPAC[letter]} for letter in motif] for motif in sorted(motifs)]
    states, step, bad = {frozenset(): 0}, [], []
    for state in (order := [frozenset()]):
        transitions, ends = [0] * 5, [False] * 5  # N matches nothing
        for code in range(4):
            grown = {(m, i + 1) for m, i in state | {(m, 0) for m in range(len(sets))} if code in sets[m][i]}
            ends[code] = any(i == len(sets[m]) for m, i in grown)
            following = frozenset((m, i) for m, i in grown if i < len(sets[m]))
            if following not in states:
                states[following] = len(states)
                order.append(following)
                if len(states) > _MAX_STATES:
                    raise InputError(
                        f"these motifs need more than {_MAX_STATES} states; give fewer or shorter ones",
                        "forbidden_motifs",
                        forbidden_motifs,
                    )
            transitions[code] = states[following]
        step.append(transitions)
        bad.append(ends)
    step, bad = np.array(step, np.int32), np.array(bad)
    while True:  # a state that no base can follow without completing a motif is bad already: TTT of TTTN
        dead = bad[:, :4].all(1)
        grown = bad | dead[step]
        grown[:, bases.N] = False
        if np.array_equal(grown, bad):
            return step, bad
        bad = grown


@functools.lru_cache(maxsize=64)
def _frame(genetic_code: int) -> tuple[np.ndarray, np.ndarray]:
    """The same for in-frame stop codons; a state is the zero, one or two bases of the incomplete codon."""
    stops = translation.stop_codons(genetic_code)
    step, ends = np.zeros((31, 5), np.int32), np.zeros((31, 5), bool)
    for code in range(5):
        step[0, code] = 1 + code
        for first in range(5):
            step[1 + first, code] = 6 + 5 * first + code
            for second in range(5):
                ends[6 + 5 * first + second, code] = stops[(first * 5 + second) * 5 + code]
    return step, ends


def _over_tokens(step: np.ndarray, event: np.ndarray, k: int, special: int, prompts) -> tuple:
    """Composes an automaton over bases into one over tokens.

    Returns, for each state and token, the next state and the token's bases up to the end of the first event in it (0:
    none), both int32 [S', V]; and the start state of each prompt. The automaton's own states are followed by one per
    prompt, and S' is rounded up to a power of two, so that few programs are compiled.
    """
    number = len(step)
    padded = 1 << (number + len(prompts) - 1).bit_length()
    following, events = np.zeros((2, padded, special + 4**k), np.int32)
    following[:number, :special] = np.arange(number)[:, None]
    following[:number, special:], events[:number, special:] = _run(step, event, np.arange(number), k)
    for i, (_, whole, left) in enumerate(prompts, number):
        state = 0
        for code in whole:
            state = step[state, code]
        following[i, :special] = state
        for code in left:
            state = step[state, code]
        rest = k - len(left)
        final, first = _run(step, event, np.array([state]), rest)
        ending = np.arange(4**k) % 4**rest  # the token's bases after the left-over ones
        following[i, special:] = final[0, ending]
        events[i, special:] = np.where(first[0, ending] > 0, first[0, ending] + len(left), 0)
    return following, events, np.arange(number, number + len(prompts))


def _run(step: np.ndarray, event: np.ndarray, states: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Runs all strings of a length from each state: the final state, and the bases up to the first event (0: none)."""
    at = states[:, None]
    first = np.zeros_like(at)
    for i in range(1, length + 1):
        first = np.where(first[..., None] > 0, first[..., None], event[at, :4] * i).reshape(len(states), -1)
        at = step[at, :4].reshape(len(states), -1)
    return at, first


def allowed(t: Tables, motif_state, frame_state, frame_bases, gc, made, remaining, wanted):
    """Which tokens satisfy the constraints, bool [B, V]; all arguments but `t` are int32 [B], one value per row.

    Args:
      motif_state, frame_state: states of the automata.
      frame_bases: bases of the reading frame so far.
      gc, made: number of G and C, and of bases, in the continuation so far. Before the first token both are negative:
        minus those of the prompt that it repeats.
      remaining: bases still to generate; a token's bases after them are cut off.
      wanted: bases of the whole continuation.
    """
    used = jnp.clip(remaining, 0, t.gc.shape[0] - 1)
    gc = gc[:, None] + t.gc[used]
    made = (made + used)[:, None]
    rest = wanted[:, None] - made
    can_end = (gc <= t.gc_bounds[1]) & (gc + rest >= t.gc_bounds[0])
    # The slack shrinks towards the end, so that the last bases need not correct the GC content.
    slack = SLACK * rest / jnp.maximum(wanted[:, None], 1) + 1
    spread = (gc <= t.gc_range[1] * made + slack) & (gc >= t.gc_range[0] * made - slack)
    stop = t.frame_stop[frame_state]
    open_ = (stop == 0) | (frame_bases[:, None] + stop - 3 >= t.min_orf_length)
    return ~t.motif_bad[motif_state] & open_ & can_end & spread
