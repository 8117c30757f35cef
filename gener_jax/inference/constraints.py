"""Constraints on generated DNA: homopolymers and motifs, GC content, an open reading frame, or your own.

A constraint prepares tables over tokens before decoding, so that a step only looks up which tokens are allowed in the
state of each row. Its class is compiled into the decode loop, and tables and states are arguments of it: another
constraint of the same class compiles nothing if its tables have the same shapes.

Constraints hold for what is generated, across the end of the prompt too. What the prompt itself breaks stays broken,
with a warning.

Dimension key: U prompts, B rows, S states of an automaton, V vocabulary, k bases per token.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from data_pipeline.ranges import LARGEST
from data_pipeline.sequence import bases, translation
from data_pipeline.sequence.tokenizer import NUM_SPECIAL, KmerTokenizer, kmer_codes
from gener_jax.inference.batches import round_up
from gener_jax.inference.options import FRACTION, HOMOPOLYMER
from gener_jax.inference.prompt import Encoded
from gener_jax.runtime.errors import InputError, whole, within

_MAX_STATES = 4096
SLACK = 12  # bases by which G + C may be outside its range at the beginning of a continuation
INSIDE = 2  # and by which it is inside at the end, if the range is wide enough: the end may be a stop codon, with one G


class Constraint(Protocol):
    """One constraint. The static methods know nothing but the tables and the state, whose arrays are [B, …].

    `end`, `ends` and `check` are optional.

    Attributes:
      end: why a row ends that this constraint ends (`Continuation.end`); only needed if it ends rows.
    """

    end: str

    def check(self, prompt: Encoded, num_bases: int) -> Sequence[str]:
        """What the prompt's own DNA has that the constraint forbids, for a warning: "the motif GAATTC".

        Raises:
          InputError: if no continuation of `num_bases` bases can satisfy the constraint.
        """

    def prepare(self, tokenizer: KmerTokenizer, num_bases: int, prompts: list[Encoded]) -> tuple[Any, Any]:
        """The tables, and the state after each prompt's whole tokens: arrays, of which those of the state are [U, …].

        The first new token of a row begins with the prompt's left-over bases. Tables whose size depends on the
        constraint should be padded, so that few programs are compiled. Empty prompts may be added to the user's.
        """

    @staticmethod
    def ends(tables, state) -> Int[Array, "B V"]:
        """The bases of each token after which it ends the row; 0: the row does not end."""

    @staticmethod
    def allowed(tables, state, made: Int[Array, " B"], wanted: Int[Array, "B V"]) -> Bool[Array, "B V"]:
        """Which tokens may come next; stop tokens, which have no bases, too.

        `made` is the bases of the continuation so far; before the first token, minus the number of left-over bases.
        `wanted` is the bases of the continuation in all if that token is chosen: those requested, or fewer if a
        constraint ends the row within the token or it is a stop token. Bases of a token beyond them are cut off.
        """

    @staticmethod
    def advance(tables, state, token: Int[Array, " B"]) -> Any:
        """The state after the token."""


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
                    f"motif {motif!r} must consist of IUPAC letters ({''.join(bases.IUPAC)}); of an enzyme, give its "
                    "site, such as GAATTC",
                    "forbidden_motifs",
                    self.forbidden_motifs,
                )

    def check(self, prompt, num_bases):
        """See `Constraint`."""
        searched = {f"the motif {motif}": (None, (motif.upper(),)) for motif in self.forbidden_motifs}
        if self.max_homopolymer is not None:
            searched[f"a homopolymer of more than {self.max_homopolymer} bases"] = (self.max_homopolymer, ())
        dna = np.append(prompt.whole, prompt.left_over)
        return [name for name, motifs in searched.items() if _events(*_motifs(*motifs)[:2], dna)]

    def prepare(self, tokenizer, num_bases, prompts):
        """Tables: the next state, int32 [S, V], and whether the token completes a motif, bool [S, V]; state int32 [U].

        Raises:
          InputError: if the motifs need too many states.
        """
        step, _, bad = _motifs(self.max_homopolymer, tuple(sorted(m.upper() for m in self.forbidden_motifs)))
        following, first, start = _over_tokens(step, bad, tokenizer.k, prompts)
        return (following, first > 0), start

    @staticmethod
    def allowed(tables, state, made, wanted):
        """See `Constraint`."""
        _, bad = tables
        return ~bad[state]

    @staticmethod
    def advance(tables, state, token):
        """See `Constraint`."""
        following, _ = tables
        return following[state, token]


@dataclasses.dataclass(frozen=True)
class ReadingFrame:
    """An open reading frame of a minimum length; whether the first stop codon after it ends the row, or must end it.

    The frame begins with the prompt's DNA. See `Constraints`.
    """

    min_orf_length: int = 0
    stop_codon: bool = False
    genetic_code: int = 1
    require_stop_codon: bool = False
    end = "stop_codon"

    def __post_init__(self):
        for name in ("min_orf_length", "genetic_code"):
            object.__setattr__(self, name, whole(getattr(self, name), name))
        if not translation.known_code(self.genetic_code):
            raise InputError("NCBI has no such genetic code", "genetic_code", self.genetic_code)
        object.__setattr__(self, "stop_codon", bool(self.stop_codon or self.require_stop_codon))

    def check(self, prompt, num_bases):
        """See `Constraint`."""
        dna, (step, event) = np.append(prompt.whole, prompt.left_over), _frame(self.genetic_code)
        opening = int(_openings(self.genetic_code)[_follow(step, dna)])
        least = max(len(dna) + opening, self._earliest_stop) + 3 - len(dna)
        if self.require_stop_codon and least > num_bases:
            after = f"after min_orf_length={self.min_orf_length}" if self.min_orf_length else "in frame"
            raise InputError(f"too few for a stop codon {after}; give at least {least}", "num_bases", num_bases)
        found = [i - 3 for i in _events(step, event, dna) if self.stop_codon or i - 3 < self.min_orf_length]
        return [f"the stop codon {bases.decode(dna[i : i + 3])} in frame at base {i + 1}" for i in found[:1]]

    @property
    def _earliest_stop(self) -> int:
        """The bases of the frame before the first codon that may be a stop."""
        return -(-self.min_orf_length // 3) * 3

    def prepare(self, tokenizer, num_bases, prompts):
        """Tables: the next state and the token's bases up to the end of its first stop codon (0: none), both int32
        [S, V]; `_openings`, int32 [S]; k, the earliest stop and the two other options. State: that of the automaton,
        and the bases of the prompt, both int32 [U].
        """
        following, stops, start = _over_tokens(*_frame(self.genetic_code), tokenizer.k, prompts)
        prompt_bases = np.array([len(prompt.whole) + len(prompt.left_over) for prompt in prompts], np.int32)
        earliest = np.int32(min(self._earliest_stop, LARGEST - 3))
        options = np.int32(tokenizer.k), earliest, np.bool_(self.stop_codon), np.bool_(self.require_stop_codon)
        return (following, stops, _openings(self.genetic_code), options), (start, prompt_bases)

    @staticmethod
    def ends(tables, state):
        """See `Constraint`."""
        _, stops, _, (_, _, stop_codon, _) = tables
        return jnp.where(stop_codon, stops[state[0]], 0)

    @staticmethod
    def allowed(tables, state, made, wanted):
        """See `Constraint`."""
        (following, stops, openings, (k, earliest, _, required)), (at, prompt_bases) = tables, state
        before, stops = (prompt_bases + made)[:, None], stops[at]
        in_time = (stops == 0) | (before + stops - 3 >= earliest)
        # A row that must end in a stop codon does so in this token, or has room for one after it.
        later = jnp.maximum(before + k + openings[following[at]], earliest)
        can_end = jnp.where(stops > 0, made[:, None] + stops == wanted, later + 3 <= prompt_bases[:, None] + wanted)
        return in_time & (can_end | ~required)

    @staticmethod
    def advance(tables, state, token):
        """See `Constraint`."""
        at, prompt_bases = state
        return tables[0][at, token], prompt_bases


@dataclasses.dataclass(frozen=True)
class GC:
    """The GC content of the whole continuation is between two fractions. See `Constraints`."""

    bounds: tuple[float, float]

    def __post_init__(self):
        bounds = tuple(self.bounds) if isinstance(self.bounds, Sequence | np.ndarray) else ()
        if len(bounds) != 2 or any(bound not in FRACTION for bound in bounds) or bounds[0] > bounds[1]:
            raise InputError(f"must be a minimum and a maximum, each {FRACTION}", "gc", self.bounds)
        object.__setattr__(self, "bounds", tuple(map(float, bounds)))

    def _numbers(self, num_bases):
        """The smallest and largest number of G and C of that many bases."""
        low, high = self.bounds
        return np.ceil(low * num_bases - 1e-6), np.floor(high * num_bases + 1e-6)

    def check(self, prompt, num_bases):
        """See `Constraint`."""
        least, largest = self._numbers(num_bases)
        if least > largest:
            raise InputError(f"no whole number of G and C of {num_bases} bases is in this range", "gc", self.bounds)
        return ()

    def prepare(self, tokenizer, num_bases, prompts):
        """Tables: the number of G and C among the first 0 … k bases of each token, int32 [k + 1, V]; the bounds as
        fractions, float32 [2], and as numbers of 0 … num_bases bases or more, int32 [2, …]. State: G and C of the
        continuation, int32 [U].
        """
        k = tokenizer.k
        is_gc = np.isin(kmer_codes(k), (bases.C, bases.G))
        counts = np.zeros((k + 1, tokenizer.vocab_size), np.int32)
        counts[1:, NUM_SPECIAL:] = np.cumsum(is_gc, axis=1).T
        numbers = np.stack(self._numbers(np.arange(round_up(num_bases + 1)))).astype(np.int32)
        # The first token counts the left-over bases of the prompt again.
        start = np.array([-np.isin(prompt.left_over, (bases.C, bases.G)).sum() for prompt in prompts], np.int32)
        return (counts, np.array(self.bounds, np.float32), numbers), start

    @staticmethod
    def allowed(tables, state, made, wanted):
        """See `Constraint`."""
        counts, (low, high), (least, largest) = tables
        made = made[:, None]
        used = jnp.clip(wanted - made, 0, len(counts) - 1)
        gc, made = state[:, None] + counts[used, jnp.arange(counts.shape[1])], made + used
        rest = wanted - made
        can_end = (gc <= largest[wanted]) & (gc + rest >= least[wanted])
        # The slack shrinks towards the end, at last to less than none, so that the last bases need not correct the GC
        # content.
        inside = jnp.clip((high - low) * made / 2 - 1, -1, INSIDE)
        slack = SLACK * rest / jnp.maximum(wanted, 1) - inside
        return can_end & ((rest == 0) | (gc <= high * made + slack) & (gc >= low * made - slack))

    @staticmethod
    def advance(tables, state, token):
        """See `Constraint`."""
        counts, *_ = tables
        return state + counts[-1, token]


def Constraints(
    max_homopolymer: int | None = None,
    forbidden_motifs: tuple[str, ...] = (),
    gc: tuple[float, float] | None = None,
    min_orf_length: int = 0,
    stop_codon: bool = False,
    genetic_code: int = 1,
    require_stop_codon: bool = False,
) -> list[Constraint]:
    """The constraints of these options, on the prompt's DNA and the continuation together; `gc`, on the latter alone.

    They hold for what is generated: what the prompt has already, such as a motif, stays and is a warning.

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
      require_stop_codon: whether it must end so, within the requested number of bases; implies `stop_codon`.

    Raises:
      InputError: if a value is invalid.
    """
    motifs = Motifs(max_homopolymer, forbidden_motifs)
    frame = ReadingFrame(min_orf_length, stop_codon, genetic_code, require_stop_codon)
    found = [] if gc is None else [GC(gc)]
    if max_homopolymer is not None or forbidden_motifs:
        found.append(motifs)
    if min_orf_length or frame.stop_codon:
        found.append(frame)
    return found


@functools.lru_cache(maxsize=64)
def _motifs(max_homopolymer: int | None, forbidden_motifs: tuple[str, ...]) -> tuple[np.ndarray, ...]:
    """The next state for each state and base, int32 [S, 5]; whether a motif ends there, and whether one must, if not
    there then after it, both bool [S, 5].

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
    step, ends = np.array(step, np.int32), np.array(bad)
    bad = ends.copy()
    for _ in states:  # a state that no base can follow without completing a motif is bad already: TTT of TTTN
        bad[:, :4] |= bad[:, :4].all(1)[step[:, :4]]
    return step, ends, bad


@functools.lru_cache(maxsize=64)
def _frame(genetic_code: int) -> tuple[np.ndarray, np.ndarray]:
    """The same for in-frame stop codons; a state is the zero, one or two bases of the incomplete codon."""
    stops = translation.stop_codons(genetic_code)
    step, ends = np.zeros((31, 5), np.int32), np.zeros((31, 5), bool)
    step[:6] = 1 + np.arange(30).reshape(6, 5)  # state 0: none; 1 + b: base b; 6 + 5 b + c: bases b, c
    ends[6:] = stops.reshape(25, 5)
    return step, ends


@functools.lru_cache(maxsize=64)
def _openings(genetic_code: int) -> np.ndarray:
    """Of each state of `_frame`, the bases from there to the first codon that may be a stop, int32 [S]; negative if it
    is the incomplete one.
    """
    step, ends = _frame(genetic_code)
    two = ends.any(1)  # two bases that some third one makes a stop codon
    one = two[step[:6]].any(1)
    return np.concatenate([[0], np.where(one[1:], -1, 2), np.where(two[6:], -2, 1)]).astype(np.int32)


def _follow(step: np.ndarray, codes: np.ndarray, state: int = 0) -> int:
    """The state after some bases."""
    for code in codes:
        state = step[state, code]
    return state


def _events(step: np.ndarray, event: np.ndarray, codes: np.ndarray) -> list[int]:
    """The numbers of bases after which an event occurs."""
    state, found = 0, []
    for i, code in enumerate(codes, 1):
        if event[state, code]:
            found.append(i)
        state = step[state, code]
    return found


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
        state = _follow(step, known)
        following[i, :NUM_SPECIAL] = state
        state = _follow(step, left, state)
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
