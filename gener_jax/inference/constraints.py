"""Constraints on generated DNA: homopolymers and motifs, GC content, an open reading frame, or your own.

A constraint prepares tables over tokens before decoding, so that a step only looks up which tokens are allowed in the
state of each row. Its class is compiled into the decode loop, and tables and states are arguments of it: another
constraint of the same class compiles nothing if its tables have the same shapes.

Dimension key: U prompts, B rows, S states of an automaton, V vocabulary, k bases per token.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from data_pipeline.sequence import bases, translation
from data_pipeline.sequence.tokenizer import NUM_SPECIAL, KmerTokenizer, kmer_codes
from gener_jax.inference.options import FRACTION, HOMOPOLYMER
from gener_jax.inference.prompt import Encoded
from gener_jax.runtime.errors import InputError, whole, within

_MAX_STATES = 4096
SLACK = 12  # bases by which G + C may be outside its range at the beginning of a continuation


class Constraint(Protocol):
    """One constraint. `allowed` and `advance` are static methods, as they know nothing but the tables and the state.

    Attributes:
      end: why a row ends that this constraint ends (`Continuation.end`); only needed if it ends rows.
    """

    end: str

    def prepare(self, tokenizer: KmerTokenizer, num_bases: int, prompts: list[Encoded]) -> tuple[Any, Any]:
        """The tables, and the state after each prompt's whole tokens: arrays, of which those of the state are [U, …].

        The first new token of a row begins with the prompt's left-over bases. Tables whose size depends on the
        constraint should be padded, so that few programs are compiled.
        """

    @staticmethod
    def allowed(tables, state, made: Int[Array, " B"], wanted: Int[Array, " B"]) -> Bool[Array, "B V"]:
        """Which k-mers may come next; stop tokens may always. The state's arrays are [B, …].

        `made` and `wanted` are bases of the continuation: so far, and in all. Before the first token, `made` is minus
        the number of left-over bases. Bases of the last token beyond `wanted` are cut off.
        """

    @staticmethod
    def advance(tables, state, token: Int[Array, " B"]) -> tuple[Any, Int[Array, " B"]]:
        """The state after the token, and the bases of the token after which the row ends; 0: the row does not end."""


@dataclasses.dataclass(frozen=True)
class Motifs:
    """No homopolymer is too long and no forbidden motif occurs, across the end of the prompt too.

    One automaton over bases recognizes both; it is composed over the bases of each k-mer. See `Constraints`.
    """

    max_homopolymer: int | None = None
    forbidden_motifs: tuple[str, ...] = ()

    def __post_init__(self):
        if self.max_homopolymer is not None:
            object.__setattr__(self, "max_homopolymer", within(self.max_homopolymer, "max_homopolymer", HOMOPOLYMER))
        if isinstance(self.forbidden_motifs, str):
            raise InputError("must be a list of motifs, not a string", "forbidden_motifs", self.forbidden_motifs)
        for motif in self.forbidden_motifs:
            if not motif or set(motif.upper()) - bases.IUPAC.keys():
                raise InputError(
                    f"motif {motif!r} must consist of IUPAC letters ({''.join(bases.IUPAC)})",
                    "forbidden_motifs",
                    self.forbidden_motifs,
                )

    def prepare(self, tokenizer, num_bases, prompts):
        """Tables: the next state, int32 [S, V], and whether the token completes a motif, bool [S, V]; state int32 [U].

        Raises:
          InputError: if the motifs need too many states.
        """
        automaton = _motifs(self.max_homopolymer, tuple(sorted(m.upper() for m in self.forbidden_motifs)))
        following, ends, start = _over_tokens(*automaton, tokenizer.k, prompts)
        return (following, ends > 0), start

    @staticmethod
    def allowed(tables, state, made, wanted):
        """See `Constraint`."""
        _, bad = tables
        return ~bad[state]

    @staticmethod
    def advance(tables, state, token):
        """See `Constraint`."""
        following, _ = tables
        return following[state, token], jnp.zeros_like(token)


@dataclasses.dataclass(frozen=True)
class ReadingFrame:
    """An open reading frame of a minimum length; whether the first stop codon after it ends the row.

    The frame begins with the prompt's DNA. See `Constraints`.
    """

    min_orf_length: int = 0
    stop_codon: bool = False
    genetic_code: int = 1
    end = "stop codon"

    def __post_init__(self):
        for name in ("min_orf_length", "genetic_code"):
            object.__setattr__(self, name, whole(getattr(self, name), name))
        if not translation.known_code(self.genetic_code):
            raise InputError("NCBI has no such genetic code", "genetic_code", self.genetic_code)

    def prepare(self, tokenizer, num_bases, prompts):
        """Tables: the next state, the token's bases up to the end of its first stop codon (0: none), both int32 [S, V];
        the two options. State: that of the automaton, and the bases of the prompt, both int32 [U].
        """
        following, stops, start = _over_tokens(*_frame(self.genetic_code), tokenizer.k, prompts)
        prompt_bases = np.array([len(prompt.whole) + len(prompt.left_over) for prompt in prompts], np.int32)
        return (following, stops, np.int32(self.min_orf_length), np.bool_(self.stop_codon)), (start, prompt_bases)

    @staticmethod
    def allowed(tables, state, made, wanted):
        """See `Constraint`."""
        (_, stops, min_orf_length, _), (at, prompt_bases) = tables, state
        before = (prompt_bases + made)[:, None]
        return (stops[at] == 0) | (before + stops[at] - 3 >= min_orf_length)

    @staticmethod
    def advance(tables, state, token):
        """See `Constraint`."""
        (following, stops, _, stop_codon), (at, prompt_bases) = tables, state
        return (following[at, token], prompt_bases), jnp.where(stop_codon, stops[at, token], 0)


@dataclasses.dataclass(frozen=True)
class GC:
    """The GC content of the whole continuation is between two fractions. See `Constraints`."""

    bounds: tuple[float, float]

    def __post_init__(self):
        bounds = tuple(self.bounds) if isinstance(self.bounds, Sequence | np.ndarray) else ()
        if len(bounds) != 2 or any(bound not in FRACTION for bound in bounds) or bounds[0] > bounds[1]:
            raise InputError("must be the minimum and maximum GC fraction, from 0 to 1", "gc", self.bounds)
        object.__setattr__(self, "bounds", tuple(map(float, bounds)))

    def prepare(self, tokenizer, num_bases, prompts):
        """Tables: the number of G and C among the first 0 … k bases of each token, int32 [k + 1, V]; the bounds as
        fractions, float32 [2], and as numbers of bases, int32 [2]. State: G and C of the continuation, int32 [U].

        Raises:
          InputError: if there is no whole number between the bounds.
        """
        low, high = self.bounds
        least, largest = math.ceil(low * num_bases - 1e-6), math.floor(high * num_bases + 1e-6)
        if least > largest:
            raise InputError(f"no whole number of G and C of {num_bases} bases is in this range", "gc", self.bounds)
        k = tokenizer.k
        is_gc = np.isin(kmer_codes(k), (bases.C, bases.G))
        counts = np.zeros((k + 1, tokenizer.vocab_size), np.int32)
        counts[1:, NUM_SPECIAL:] = np.cumsum(is_gc, axis=1).T
        # The first token counts the left-over bases of the prompt again.
        start = np.array([-np.isin(prompt.left_over, (bases.C, bases.G)).sum() for prompt in prompts], np.int32)
        return (counts, np.array(self.bounds, np.float32), np.array([least, largest], np.int32)), start

    @staticmethod
    def allowed(tables, state, made, wanted):
        """See `Constraint`."""
        counts, fractions, numbers = tables
        used = jnp.clip(wanted - made, 0, len(counts) - 1)
        gc = state[:, None] + counts[used]
        made, wanted = (made + used)[:, None], wanted[:, None]
        rest = wanted - made
        can_end = (gc <= numbers[1]) & (gc + rest >= numbers[0])
        # The slack shrinks towards the end, so that the last bases need not correct the GC content.
        slack = SLACK * rest / jnp.maximum(wanted, 1) + 1
        return can_end & (gc <= fractions[1] * made + slack) & (gc >= fractions[0] * made - slack)

    @staticmethod
    def advance(tables, state, token):
        """See `Constraint`."""
        counts, *_ = tables
        return state + counts[-1, token], jnp.zeros_like(token)


def Constraints(
    max_homopolymer: int | None = None,
    forbidden_motifs: tuple[str, ...] = (),
    gc: tuple[float, float] | None = None,
    min_orf_length: int = 0,
    stop_codon: bool = False,
    genetic_code: int = 1,
) -> list[Constraint]:
    """The constraints of these options, on the prompt's DNA and the continuation together; `gc`, on the latter alone.

    Args:
      max_homopolymer: longest homopolymer, in bases, at most 1000.
      forbidden_motifs: motifs that must not occur on either strand, in IUPAC letters, such as restriction sites
        ("GAATTC").
      gc: minimum and maximum GC content of the whole continuation, as fractions. During generation GC stays within a
        few bases of this range, so that the last bases need not correct it.
      min_orf_length: no stop codon may begin within this number of bases of the reading frame. The frame begins with
        the prompt's DNA, or with the continuation if there is none.
      stop_codon: whether a row ends after the first stop codon in that frame.
      genetic_code: NCBI's number of the genetic code of the frame.

    Raises:
      InputError: if a value is invalid.
    """
    motifs = Motifs(max_homopolymer, forbidden_motifs)
    frame = ReadingFrame(min_orf_length, stop_codon, genetic_code)
    found = [] if gc is None else [GC(gc)]
    if max_homopolymer is not None or forbidden_motifs:
        found.append(motifs)
    if min_orf_length or stop_codon:
        found.append(frame)
    return found


@functools.lru_cache(maxsize=64)
def _motifs(max_homopolymer: int | None, forbidden_motifs: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The next state for each state and base, int32 [S, 5], and whether a motif ends there, bool [S, 5].

    A state is a set of partial matches (motif, letters matched): the subset construction, which for motifs of A, C, G
    and T gives the automaton of Aho and Corasick.
    """
    motifs = {tuple(frozenset(bases.encode(bases.IUPAC[letter]).tolist()) for letter in m) for m in forbidden_motifs}
    motifs |= {tuple(frozenset(code ^ 1 for code in codes) for codes in reversed(m)) for m in motifs}
    if max_homopolymer is not None:
        motifs |= {(frozenset([code]),) * (max_homopolymer + 1) for code in range(4)}
    sets = list(motifs)
    states, step, bad = {frozenset(): 0}, [], []
    for state in (order := [frozenset()]):
        transitions, ends = [0] * 5, [False] * 5  # N matches nothing
        for code in range(4):
            grown = {(m, i + 1) for m, i in state | {(m, 0) for m in range(len(sets))} if code in sets[m][i]}
            ends[code] = any(i == len(sets[m]) for m, i in grown)
            following = frozenset((m, i) for m, i in grown if i < len(sets[m]))
            transitions[code] = states.setdefault(following, len(states))
            if len(states) > len(order):
                order.append(following)
        if len(states) > _MAX_STATES:
            raise InputError(
                f"these motifs need more than {_MAX_STATES} states; give fewer or shorter ones",
                "forbidden_motifs",
                forbidden_motifs,
            )
        step.append(transitions)
        bad.append(ends)
    step, bad = np.array(step, np.int32), np.array(bad)
    for _ in states:  # a state that no base can follow without completing a motif is bad already: TTT of TTTN
        bad[:, :4] |= bad[:, :4].all(1)[step[:, :4]]
    return step, bad


@functools.lru_cache(maxsize=64)
def _frame(genetic_code: int) -> tuple[np.ndarray, np.ndarray]:
    """The same for in-frame stop codons; a state is the zero, one or two bases of the incomplete codon."""
    stops = translation.stop_codons(genetic_code)
    step, ends = np.zeros((31, 5), np.int32), np.zeros((31, 5), bool)
    step[:6] = 1 + np.arange(30).reshape(6, 5)  # state 0: none; 1 + b: base b; 6 + 5 b + c: bases b, c
    ends[6:] = stops.reshape(25, 5)
    return step, ends


def _over_tokens(step: np.ndarray, event: np.ndarray, k: int, prompts: list[Encoded]) -> tuple:
    """Composes an automaton over bases into one over tokens.

    Returns, for each state and token, the next state and the token's bases up to the end of the first event in it (0:
    none), both int32 [S, V]; and the start state of each prompt, int32 [U]. The automaton's own states are followed by
    one per prompt, in which a token's first bases are the left-over ones: an event in the prompt's own bases does not
    count. S is rounded up to a power of two, so that few programs are compiled.
    """
    number = len(step)
    padded = 1 << (number + len(prompts) - 1).bit_length()
    following, events = np.zeros((2, padded, NUM_SPECIAL + 4**k), np.int32)
    following[:number, :NUM_SPECIAL] = np.arange(number)[:, None]
    following[:number, NUM_SPECIAL:], events[:number, NUM_SPECIAL:] = _run(step, event, np.arange(number), k)
    for i, (_, known, left) in enumerate(prompts, number):
        state = 0
        for code in known:
            state = step[state, code]
        following[i, :NUM_SPECIAL] = state
        for code in left:
            state = step[state, code]
        rest = k - len(left)
        final, first = _run(step, event, np.array([state]), rest)
        ending = np.arange(4**k) % 4**rest  # the token's bases after the left-over ones
        following[i, NUM_SPECIAL:] = final[0, ending]
        events[i, NUM_SPECIAL:] = np.where(first[0, ending] > 0, first[0, ending] + len(left), 0)
    return following, events, np.arange(number, number + len(prompts), dtype=np.int32)


def _run(step: np.ndarray, event: np.ndarray, states: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Runs all strings of a length from each state: the final state, and the bases up to the first event (0: none)."""
    at = states[:, None]
    first = np.zeros_like(at)
    for i in range(1, length + 1):
        first = np.where(first[..., None] > 0, first[..., None], event[at, :4] * i).reshape(len(states), -1)
        at = step[at, :4].reshape(len(states), -1)
    return at, first
