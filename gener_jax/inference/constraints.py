"""What a generated sequence has to keep to: longest run, forbidden motifs, GC content, an open reading frame.

Motifs and runs are read by one automaton over bases, the frame by another. Both are composed over the bases of each
k-mer beforehand, so that a decoding step looks up which tokens are allowed behind the state of each row, bases of the
prompt and of the token before included.
"""

import dataclasses
import functools
import math

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from data_pipeline import bases, translation
from data_pipeline.tokenizer import Tokenizer

_IUPAC = {
    "A": "A", "C": "C", "G": "G", "T": "T", "U": "T", "R": "AG", "Y": "CT", "S": "CG", "W": "AT", "K": "GT", "M": "AC",
    "B": "CGT", "D": "AGT", "H": "ACT", "V": "ACG", "N": "ACGT",
}  # fmt: skip
_MAX_STATES = 4096
SLACK = 12  # bases by which GC may be out of its range at first


@dataclasses.dataclass(frozen=True)
class Constraints:
    """All are about the DNA of the prompt's end and the continuation together, but for `gc`, of the continuation.

    Args:
      max_run: the longest run of one base.
      avoid: motifs that may not come, in IUPAC letters, such as restriction sites ("GAATTC"); nor on the other strand.
      gc: the least and the largest share of G and C of a whole continuation; on the way it is kept within a few bases
        of that, so that the end has nothing to mend.
      open_frame: the bases before which no stop codon may begin in the reading frame. The frame begins with the DNA of
        the prompt's end (behind its last special token), or with the continuation where there is none.
      stop_codon: end a row behind the first stop codon in that frame.
      genetic_code: NCBI's number of the code that the frame is read by.

    Raises:
      ValueError: for what cannot be kept to.
    """

    max_run: int | None = None
    avoid: tuple[str, ...] = ()
    gc: tuple[float, float] | None = None
    open_frame: int = 0
    stop_codon: bool = False
    genetic_code: int = 1

    def __post_init__(self):
        if self.max_run is not None and self.max_run < 1:
            raise ValueError(f"max_run is {self.max_run}: it has to be positive")
        if isinstance(self.avoid, str):
            raise ValueError("avoid is one string: give a list of motifs")
        for motif in self.avoid:
            if not motif or set(motif.upper()) - _IUPAC.keys():
                raise ValueError(f"avoid has {motif!r}: a motif is of IUPAC letters ({''.join(_IUPAC)})")
        if self.gc is not None and not (len(self.gc) == 2 and 0 <= self.gc[0] <= self.gc[1] <= 1):
            raise ValueError(f"gc is {self.gc}: give the least and the largest share, between 0 and 1")
        if self.open_frame < 0:
            raise ValueError(f"open_frame is {self.open_frame}: it cannot be negative")
        if not translation.known_code(self.genetic_code):
            raise ValueError(f"genetic_code is {self.genetic_code}: NCBI has no such code")

    def any(self) -> bool:
        """Whether there is one."""
        return self != Constraints(genetic_code=self.genetic_code)


@struct.dataclass
class Tables:
    """The automata over tokens, and the bounds. Dimension key: S states, V vocabulary."""

    motif_next: Int[Array, "S V"]
    motif_bad: Bool[Array, "S V"]
    frame_next: Int[Array, "S V"]
    frame_stop: Int[Array, "S V"]  # bases of the token up to the end of its first stop codon; 0: there is none
    gc: Int[Array, "bases V"]  # G and C among so many first bases
    gc_range: Float[Array, "2"]  # shares
    gc_bounds: Int[Array, "2"]  # of the whole continuation
    open_frame: Int[Array, ""]
    ends_at_stop: Bool[Array, ""]


def tables(
    constraints: Constraints, tokenizer: Tokenizer, num_bases: int, prompts: list[tuple[np.ndarray, np.ndarray]]
) -> tuple[Tables, np.ndarray]:
    """The constraints on `num_bases` bases over a k-mer vocabulary, in numpy, and where prompts begin, int32 [U, 3].

    A prompt is the codes of its last DNA in whole tokens, and those left over. Each begins in a state of its own, in
    which a token's first bases are the left-over ones: what they complete is the prompt's, and no event. The three are
    the states of both automata and the bases of the frame in whole tokens.

    Raises ValueError where gc leaves no whole number of G and C.
    """
    low, high = constraints.gc or (0, 1)
    least, largest = math.ceil(low * num_bases - 1e-6), math.floor(high * num_bases + 1e-6)
    if least > largest:
        raise ValueError(f"gc {low} to {high} of {num_bases} bases: no whole number of G and C lies between")
    k, special = tokenizer.k, tokenizer.vocab_size - 4**tokenizer.k
    motifs = _motifs(constraints.max_run, tuple(sorted(m.upper() for m in constraints.avoid)))
    motif_next, ends, motif_starts = _over_tokens(*motifs, k, special, prompts)
    frame_next, stops, frame_starts = _over_tokens(*_frame(constraints.genetic_code), k, special, prompts)
    begin = np.array([motif_starts, frame_starts, [len(dna) for dna, _ in prompts]], np.int32).reshape(3, -1).T
    is_gc = np.isin(np.arange(4**k)[:, None] // 4 ** np.arange(k - 1, -1, -1) % 4, (bases.C, bases.G))
    gc = np.zeros((k + 1, special + 4**k), np.int32)
    gc[1:, special:] = np.cumsum(is_gc, axis=1).T
    return Tables(
        motif_next, ends > 0, frame_next, stops, gc, np.array([low, high], np.float32),
        np.array([least, largest], np.int32), np.int32(constraints.open_frame), np.bool_(constraints.stop_codon),
    ), begin  # fmt: skip


@functools.lru_cache(maxsize=64)
def _motifs(max_run: int | None, avoid: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """What follows each state at each base, int32 [S, 5], and whether a motif ends there, bool [S, 5].

    A state is the set of (motif, letters matched) that are open: the subset construction, which for plain motifs gives
    the automaton of Aho and Corasick.
    """
    complement = dict(zip("ACGTRYSWKMBDHVN", "TGCAYRSWMKVHDBN", strict=True))
    motifs = {m.replace("U", "T") for m in avoid}
    motifs |= {"".join(complement[c] for c in reversed(m)) for m in motifs}
    if max_run is not None:
        motifs |= {base * (max_run + 1) for base in "ACGT"}
    sets = [[{bases.LETTERS.index(b) for b in _IUPAC[letter]} for letter in motif] for motif in sorted(motifs)]
    states, step, bad = {frozenset(): 0}, [], []
    for state in (order := [frozenset()]):
        row, ends = [0] * 5, [False] * 5  # N matches nothing
        for code in range(4):
            grown = {(m, i + 1) for m, i in state | {(m, 0) for m in range(len(sets))} if code in sets[m][i]}
            ends[code] = any(i == len(sets[m]) for m, i in grown)
            following = frozenset((m, i) for m, i in grown if i < len(sets[m]))
            if following not in states:
                states[following] = len(states)
                order.append(following)
                if len(states) > _MAX_STATES:
                    raise ValueError(f"avoid: these motifs need over {_MAX_STATES} states: give fewer, or shorter ones")
            row[code] = states[following]
        step.append(row)
        bad.append(ends)
    step, bad = np.array(step, np.int32), np.array(bad)
    while True:  # what no base can follow is bad already: of TTTN, TTT
        dead = bad[:, :4].all(1)
        grown = bad | dead[step]
        grown[:, bases.N] = False
        if np.array_equal(grown, bad):
            return step, bad
        bad = grown


@functools.lru_cache(maxsize=64)
def _frame(genetic_code: int) -> tuple[np.ndarray, np.ndarray]:
    """The same for stop codons in frame; a state is the bases of the codon that is open: none, one, two."""
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
    """By state and token: the state behind it, and its bases up to the first event in it (0: none); int32 [S', V].

    Behind the automaton's own states comes one for each prompt; the third result says which. S' is a power of two, so
    that few programs are compiled.
    """
    number = len(step)
    padded = 1 << (number + len(prompts) - 1).bit_length()
    following, events = np.zeros((2, padded, special + 4**k), np.int32)
    following[:number, :special] = np.arange(number)[:, None]
    following[:number, special:], events[:number, special:] = _run(step, event, np.arange(number), k)
    for i, (dna, left) in enumerate(prompts, number):
        state = 0
        for code in dna:
            state = step[state, code]
        following[i, :special] = state
        for code in left:
            state = step[state, code]
        rest = k - len(left)
        behind, first = _run(step, event, np.array([state]), rest)
        ending = np.arange(4**k) % 4**rest  # the token's bases behind the left-over ones
        following[i, special:] = behind[0, ending]
        events[i, special:] = np.where(first[0, ending] > 0, first[0, ending] + len(left), 0)
    return following, events, np.arange(number, number + len(prompts))


def _run(step: np.ndarray, event: np.ndarray, states: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """From each state over all strings of a length: the state behind, and the bases up to the first event (0: none)."""
    at = states[:, None]
    first = np.zeros_like(at)
    for i in range(1, length + 1):
        first = np.where(first[..., None] > 0, first[..., None], event[at, :4] * i).reshape(len(states), -1)
        at = step[at, :4].reshape(len(states), -1)
    return at, first


def allowed(t: Tables, motif, frame, frame_bases, gc, made, left, wanted):
    """Which tokens keep to the constraints, bool [B, V]; all but `t` are int32 [B], a row each.

    Args:
      motif, frame: states of the automata.
      frame_bases: bases of the reading frame so far.
      gc, made: G and C, and bases, of the continuation so far (negative by what a first token repeats of the prompt).
      left: bases that are still wanted; a token's bases behind them are cut off.
      wanted: bases of the whole continuation.
    """
    used = jnp.clip(left, 0, t.gc.shape[0] - 1)
    gc = gc[:, None] + t.gc[used]
    made = (made + used)[:, None]
    rest = wanted[:, None] - made
    can_end = (gc <= t.gc_bounds[1]) & (gc + rest >= t.gc_bounds[0])
    slack = SLACK * rest / jnp.maximum(wanted[:, None], 1) + 1  # less and less, so that the end has nothing to mend
    spread = (gc <= t.gc_range[1] * made + slack) & (gc >= t.gc_range[0] * made - slack)
    stop = t.frame_stop[frame]
    open_ = (stop == 0) | (frame_bases[:, None] + stop - 3 >= t.open_frame)
    return ~t.motif_bad[motif] & open_ & can_end & spread
