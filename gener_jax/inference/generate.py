"""Autoregressive generation with a KV cache: one program reads the prompts, another runs the whole decode loop.

The prompts of a batch are right-padded for the prefill. Their keys and values are then shifted so that all prompts end
at the same cache slot, and every row writes the same slot at each step. Padding is a document of its own, and rotary
positions count from each row's first token. Shapes are rounded up and the number of new tokens is a traced value, so
few programs are compiled. Nothing is fetched inside the loop. The loop can be entered again, which is how sequences are
streamed, and how a long cache grows on an accelerator, where attention reads all slots for each token.

Dimension key: B rows, U prompts, P slots of the prompts, R new tokens at most, S slots of the cache, V vocabulary, D
hidden, k bases per token.
"""

import dataclasses
import functools
import os
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from data_pipeline.sequence import bases
from data_pipeline.sequence.tokenizer import BOS, NUM_SPECIAL, PAD, Tokenizer, kmer_codes
from gener_jax.inference.batches import right_pad, round_up
from gener_jax.inference.constraints import Constraint
from gener_jax.inference.prompt import Encoded, Prompt
from gener_jax.inference.samplers import Sampler
from gener_jax.model import kernels, kmers, sharding
from gener_jax.model.decoder import Cache, Decoder, end_together, extend_cache
from gener_jax.runtime.errors import InputError

BATCH_SIZE = 32  # default number of rows decoded together
_LONG = 1024  # tokens of a prompt from which on its padding costs more than compiling more programs
_UNGROWN = 2048  # slots of a cache that is made whole: each size of a cache is another program to compile


@struct.dataclass
class Request:
    """The request for a batch, constant during the decode loop."""

    keys: jax.Array  # random keys [B]; the samples of a row depend only on its key and prompt
    first_allowed: Bool[Array, "B V"]  # tokens that may be a row's first new token
    allowed: Bool[Array, " V"]  # tokens that may be any later one
    stops: Bool[Array, " V"]  # tokens that end a row; they are kept in `ids`
    token_bases: Int[Array, " V"]  # number of bases of each id
    left_over: Int[Array, " B"]  # number of the prompt's left-over bases, which the first new token repeats
    num_bases: Int[Array, " B"]  # bases to generate, including `left_over`; the token that reaches them ends the row
    sampler: Sampler
    tables: tuple = ()  # of each constraint
    constraints: tuple[type, ...] = struct.field(pytree_node=False, default=())  # their classes


@struct.dataclass
class State:
    """The state of the decode loop."""

    step: Int[Array, ""]  # new tokens per row so far
    hidden: Float[Array, "B D"]  # hidden state of each row's last token
    positions: Int[Array, " B"]  # position of the next token
    done: Bool[Array, " B"]
    stuck: Bool[Array, " B"]  # ended because no token satisfies the constraints
    have: Int[Array, " B"]  # bases so far, counted as in `Request.num_bases`
    count: Int[Array, " B"]  # new tokens of each row, without padding
    ids: Int[Array, "B R"]  # right-padded with <pad>
    cache: Cache
    constraints: tuple = ()  # the state of each constraint
    ended: Int[Array, "B constraints"] | None = None  # the bases, counted as `have`, at which it ended the row; or 0
    log_probs: Float[Array, "B R k"] | None = None  # of each base, by the chain rule


def _prefill(
    model: Decoder, params, prompts_UP, lengths_U, of_B, left_over_B, num_bases_B, *,
    room: int, slots: int, log_probs: int,
) -> State:  # fmt: skip
    """`room` is R, the number of new tokens that the state can hold, and `slots` S, that of its cache for now."""
    U, P = prompts_UP.shape
    positions_UP = jnp.broadcast_to(jnp.arange(P), (U, P))
    B = num_bases_B.shape[0]
    # The platform's kernel supports only the causal mask, and right padding needs no other.
    hidden_UPD, cache = model.apply({"params": params}, prompts_UP, positions_BT=positions_UP, keep=True)
    hidden = hidden_UPD[jnp.arange(U), lengths_U - 1]
    cache = end_together(cache, lengths_U)
    if of_B is not None:  # several samples per prompt, each prompt read once
        hidden, lengths_U = hidden[of_B], lengths_U[of_B]
        cache = jax.tree.map(lambda x: x[of_B] if x.ndim else x, cache)
    zeros = jnp.zeros((B,), jnp.int32)
    return State(
        step=jnp.int32(0), hidden=hidden, positions=lengths_U, done=num_bases_B <= left_over_B,
        stuck=jnp.zeros((B,), bool), have=zeros, count=zeros, ids=jnp.full((B, room), PAD, jnp.int32),
        cache=extend_cache(cache, slots - P), log_probs=jnp.zeros((B, room, log_probs)) if log_probs else None,
    )  # fmt: skip


def _advance(model: Decoder, params, request: Request, state: State, until) -> State:
    """Runs the decode loop up to `until` new tokens per row, for which the cache must have slots."""
    room = state.ids.shape[1]

    def proceed(s: State):
        return (s.step < jnp.minimum(until, room)) & ~s.done.all()

    def advance(s: State):
        logits = model.apply({"params": params}, s.hidden, method="logits")
        mask = jnp.where(s.step == 0, request.first_allowed, request.allowed)
        each = list(zip(request.constraints, request.tables, s.constraints, strict=True))
        if each:
            made, wanted = s.have - request.left_over, (request.num_bases - request.left_over)[:, None]
            wanted, ends = jnp.where(request.stops, made[:, None], wanted), []
            for kind, *x in each:
                ends.append(kind.ends(*x) if hasattr(kind, "ends") else jnp.zeros_like(wanted))
                wanted = jnp.where(ends[-1] > 0, jnp.minimum(wanted, made[:, None] + ends[-1]), wanted)
            for kind, *x in each:
                mask &= kind.allowed(*x, made, wanted)
        stuck = ~mask.any(-1) & ~s.done
        done = s.done | stuck
        keys = jax.vmap(jax.random.fold_in, (0, None))(request.keys, s.step)
        token = request.sampler.draw(jnp.where(mask, logits, -jnp.inf), keys)
        s = s.replace(
            ids=s.ids.at[:, s.step].set(jnp.where(done, PAD, token)), count=s.count + ~done, stuck=s.stuck | stuck
        )
        if s.log_probs is not None:
            log_probs = -kmers.base_nll(logits, token, s.log_probs.shape[-1])
            s = s.replace(log_probs=s.log_probs.at[:, s.step].set(log_probs))
        have = s.have + jnp.where(done, 0, request.token_bases[token])
        if each:
            states = tuple(kind.advance(*x, token) for kind, *x in each)
            ended = jnp.stack([jnp.take_along_axis(x, token[:, None], axis=1)[:, 0] for x in ends], axis=1)
            ending = ~done[:, None] & (ended > 0) & (s.have[:, None] + ended <= request.num_bases[:, None])
            s = s.replace(constraints=states, ended=jnp.where(ending, s.have[:, None] + ended, s.ended))
            done |= ending.any(1)
        done |= request.stops[token] | (have >= request.num_bases)
        hidden, cache = model.apply(
            {"params": params}, token[:, None], positions_BT=s.positions[:, None], cache=s.cache
        )
        return s.replace(
            step=s.step + 1, hidden=hidden[:, 0], positions=s.positions + 1, done=done, have=have, cache=cache
        )

    return jax.lax.while_loop(proceed, advance, state)


_AS_ONE_GRAPH = {
    # By default a GPU runs one graph per token, and the host waits for each to know whether another follows.
    "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,WHILE,CONDITIONAL",
    "xla_gpu_graph_min_graph_size": 1,  # the program has few commands besides the loop, fewer than XLA's default needs
}


def programs():
    """`prefill(model, params, prompts_UP, lengths_U, of_B, …)` and `advance(model, params, request, state, n)`.

    `prefill` returns the state after the prompts; `advance` returns it with up to n new tokens per row in all. `of_B`
    is the index of each row's prompt; None if every row has its own. `prefill` needs neither sampler nor constraints.
    """
    # Compiler options would override the user's flag.
    set_by_user = "xla_gpu_enable_command_buffer" in os.environ.get("XLA_FLAGS", "")
    return _programs(jax.default_backend(), not set_by_user)


@functools.cache
def _programs(platform: str, graphs: bool):
    options = None
    # XLA's ynn library for matrix products on CPU packs the weights again for every token: without it a model of 40 M
    # parameters decodes a third faster with a batch of 8.
    if platform == "cpu":
        options = _known({"xla_cpu_experimental_ynn_fusion_type": ""})
    elif platform == "gpu" and graphs:
        options = _known(_AS_ONE_GRAPH)
        if options is None:
            warnings.warn(
                "this XLA cannot run the decode loop as one CUDA graph: generation is slower, since it waits for the "
                "host at every token",
                stacklevel=3,
            )
    prefill = jax.jit(_prefill, static_argnames=("model", "room", "slots", "log_probs"))
    advance = jax.jit(_advance, static_argnames="model", donate_argnames="state", compiler_options=options)
    return prefill, advance


def _known(options: dict) -> dict | None:
    """The compiler options if this version of XLA has them and a loop runs with them, else None."""
    try:
        loop = functools.partial(jax.lax.while_loop, lambda i: i < 3, lambda i: i + 1)
        jax.jit(loop, compiler_options=options)(0).block_until_ready()
    except Exception:  # jax documents no class for it
        return None
    return options


def _num_rows(number: int) -> int:
    """The number of rows of a batch for `number` continuations: rounded up, and at least two on a GPU.

    XLA compiles a matrix product with one row as a multiplication and a separate sum, which on a GPU writes 8 MB of
    intermediate results per layer for a model of 1.2 billion parameters.
    """
    return round_up(number, least=2 if kernels.platform() == "gpu" else 1)


def _prompt_slots(longest: int) -> int:
    """The slots of prompts of up to `longest` tokens: of long ones in finer steps, since reading them costs more."""
    return round_up(longest, steps=4 if longest > _LONG else 1)


def _slots(filled: int, most: int) -> int:
    """The slots of a cache that `filled` tokens fill, and that `most` may: on a CPU `most`, for it reads no empty ones.

    Elsewhere at most half of one of over 2,048 slots is empty.
    """
    return most if kernels.platform() == "cpu" else min(most, round_up(filled + 1, _UNGROWN))


def _grown(cache: Cache, slots: int) -> Cache:
    """The cache with so many slots. Layer by layer, so that there is never a second cache."""
    layers, added = [], slots - cache.segment_ids.shape[1]
    for k, v in zip(cache.k, cache.v, strict=True):
        layers.append(extend_cache(Cache((k,), (v,), cache.segment_ids, cache.index), added))
        k.delete()
        v.delete()
    return layers[0].replace(k=tuple(x.k[0] for x in layers), v=tuple(x.v[0] for x in layers))


# Rows times slots for new tokens of a large cache: in 1.2b 0.9 GB, beside 2.3 GB of weights in bfloat16.
_LARGE = 1 << 15


def new_slots(rows: int, tokens: int) -> int:
    """The slots for `tokens` new tokens of each of `rows` rows: rounded up, on an accelerator less for a large cache.

    There each step reads all slots, so empty ones cost more than the programs that other sizes need. These sizes are
    multiples of 16, since rows of aligned length are read faster.
    """
    slots = round_up(tokens)
    if kernels.platform() == "cpu" or rows * slots < _LARGE:
        return slots
    return min(slots, round_up(tokens, least=64, steps=4))


def max_tokens(tokenizer: Tokenizer, num_bases: int) -> int:
    """The largest number of tokens that `num_bases` bases may need."""
    return int(-(-num_bases // tokenizer.token_bases[tokenizer.token_bases > 0].min()))


def encode(lm, prompt: Prompt, argument: str, num_bases: int, remainder: str, exact: bool) -> Encoded:
    """A prompt in tokens, with room for `num_bases` bases after it; `exact`: for log_probs or constraints.

    Raises:
      InputError: of `argument`, if it exceeds the model's positions, or ends in an unknown base that `exact` does not
        support.
    """
    encoded, text = prompt.encode(lm.tokenizer, remainder), str(prompt)
    left_over = encoded.left_over
    lm.check_length(len(encoded.ids) + max_tokens(lm.tokenizer, len(left_over) + num_bases), argument, text)
    if exact and (left_over >= bases.N).any():
        raise InputError(
            f"it has an unknown base among the {len(left_over)} left over at its end, which neither log_probs "
            "nor constraints support; shorten it", argument, text,
        )  # fmt: skip
    return encoded


def cache_size(rows: int, prompt: int, num_bases: int, tokenizer: Tokenizer) -> tuple[int, int]:
    """Rows and slots of the cache for continuing `rows` prompts of up to `prompt` tokens by `num_bases`."""
    rows = _num_rows(rows)
    return rows, _prompt_slots(prompt) + new_slots(rows, max_tokens(tokenizer, num_bases) + 1)


@dataclasses.dataclass(frozen=True)
class Continuation:
    """The continuation of a prompt; `pandas.DataFrame` makes a table of several.

    `end` is why it ends: "length", the special token that was generated ("</s>"), or "stop_codon". `log_probs`, float32
    [bases], if requested: the log-probability of each base in nats, given all bases before it, under the model's own
    distribution over the full vocabulary (without temperature, filters and constraints). They add up to the
    log-probability of the continuation given the prompt.
    """

    text: str
    end: str
    log_probs: np.ndarray | None = None


class Batch:
    """A batch during generation: call `advance`, then `continuations`."""

    def __init__(self, lm, prompts: list[Encoded], prompt_index, names: list[str], keys, num_bases: int,
                 sampler: Sampler, stops: np.ndarray, constraints: list[Constraint], log_probs: bool):  # fmt: skip
        """Reads the prompts. For each row, `prompt_index`, `names` and `keys` have an entry: the index of its prompt
        among the distinct `prompts`, its name in errors, and its random key.
        """
        t = lm.tokenizer
        self.lm, self.stops, self.names, self.constraints = lm, stops, names, constraints
        self.number = len(names)
        is_dna = t.token_bases > 0
        # Prompts and rows are added to round their numbers up; those rows generate nothing and are dropped.
        empty = Encoded(np.array([BOS]), *np.zeros((2, 0), np.uint8))
        prompts = prompts + [empty] * (round_up(len(prompts), 1) - len(prompts))
        padding = [-1] * (_num_rows(self.number) - self.number)
        of = np.array([*prompt_index, *padding], np.int32)
        left_over = [prompts[i].left_over for i in prompt_index] + [empty.left_over for _ in padding]
        self.left_over = np.array([len(x) for x in left_over], np.int32)
        self.num_bases = np.where(np.arange(len(of)) < self.number, self.left_over + num_bases, 0).astype(np.int32)
        # A stop token has no bases, so it cannot come first if the prompt has bases left over.
        first = np.stack([agreeing(t, x.tobytes()) | (stops & (len(x) == 0)) for x in left_over])
        prepared = [constraint.prepare(t, num_bases, prompts) for constraint in self.constraints]
        states = tuple(jax.tree.map(lambda x: x[of], state) for _, state in prepared)
        self.request = Request(
            keys=keys[np.minimum(np.arange(len(of)), self.number - 1)], first_allowed=first,
            allowed=is_dna | stops, stops=stops, token_bases=t.token_bases.astype(np.int32), left_over=self.left_over,
            num_bases=self.num_bases, sampler=jax.tree.map(np.asarray, sampler),
            tables=tuple(tables for tables, _ in prepared), constraints=tuple(map(type, self.constraints)),
        )  # fmt: skip
        lengths = np.array([len(prompt.ids) for prompt in prompts], np.int32)
        self.prompt_slots = _prompt_slots(int(lengths.max()))
        room = new_slots(len(of), max_tokens(t, self.num_bases.max()))
        self.most_slots = self.prompt_slots + room
        ids = right_pad([prompt.ids for prompt in prompts], self.prompt_slots)
        one_each = len(of) == len(prompts) and np.array_equal(of[: self.number], np.arange(self.number))
        with sharding.on(lm.mesh):
            self.state = programs()[0](
                lm.model, lm.params, ids, lengths, None if one_each else of, self.left_over, self.num_bases,
                room=room, slots=_slots(self.prompt_slots, self.most_slots), log_probs=t.k if log_probs else 0,
            )  # fmt: skip
            if constraints:
                added = {"constraints": states, "ended": np.zeros((len(of), len(states)), np.int32)}
                self.state = self.state.replace(**jax.device_put(added, NamedSharding(lm.mesh, PartitionSpec())))

    def advance(self, until: int) -> bool:
        """Decodes up to `until` tokens per row in all; returns whether any row is unfinished."""
        with sharding.on(self.lm.mesh):
            while True:
                slots = self.state.cache.segment_ids.shape[1]
                reached = np.int32(min(until, slots - self.prompt_slots))
                self.state = programs()[1](self.lm.model, self.lm.params, self.request, self.state, reached)
                unfinished = not bool(self.state.done.all())
                if not unfinished or reached == until or slots == self.most_slots:
                    return unfinished
                self.state = self.state.replace(cache=_grown(self.state.cache, _slots(slots, self.most_slots)))

    def continuations(self) -> list[Continuation]:
        """The continuation of each row so far.

        Raises:
          InputError: if no token of a row satisfies the constraints.
        """
        t, s = self.lm.tokenizer, self.state
        ids, count, stuck, have = (np.asarray(x) for x in (s.ids, s.count, s.stuck, s.have))
        ended = np.zeros((len(ids), 0)) if s.ended is None else np.asarray(s.ended)
        log_probs = None if s.log_probs is None else np.asarray(s.log_probs)
        found = []
        for i in range(self.number):
            if stuck[i]:
                raise InputError(
                    f"no token satisfies all of them after {max(have[i] - self.left_over[i], 0)} bases of "
                    f"{self.names[i]}; relax one", "constraints", self.constraints,
                )  # fmt: skip
            row = ids[i, : count[i]]
            end, last = "length", self.num_bases[i]
            if ended[i].any():
                last, end = min((n, c.end) for n, c in zip(ended[i], self.constraints, strict=True) if n)
            elif len(row) and self.stops[row[-1]]:
                end, row = t.token(int(row[-1])), row[:-1]
            kept = slice(self.left_over[i], last)
            of_bases = None if log_probs is None else log_probs[i, : len(row)].ravel()[kept]
            found.append(Continuation(t.decode(row)[kept], end, of_bases))
        return found


@functools.lru_cache(maxsize=4096)
def agreeing(tokenizer: Tokenizer, left_over: bytes) -> np.ndarray:
    """Which tokens begin with these base codes, bool [vocabulary]; an N matches every base."""
    allowed = tokenizer.token_bases > 0
    for i, code in enumerate(left_over):
        if code < bases.N:
            allowed[NUM_SPECIAL:] &= kmer_codes(tokenizer.k)[:, i] == code
    return allowed
