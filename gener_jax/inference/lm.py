"""A trained model as one object: `lm = gener_jax.load(folder)`, then `lm.generate`, `lm.logits`."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from data_pipeline.ranges import SEED
from data_pipeline.sequence.tokenizer import SPECIAL_TOKENS
from gener_jax.config import Head, ModelSpec, with_model
from gener_jax.inference import weights as weights_of
from gener_jax.inference.annotation import annotate
from gener_jax.inference.batches import tokens_per_batch
from gener_jax.inference.constraints import Constraint
from gener_jax.inference.dependency import dependency_map
from gener_jax.inference.embeddings import embed
from gener_jax.inference.framing import framed
from gener_jax.inference.generate import BATCH_SIZE, Batch, cache_size, encode
from gener_jax.inference.likelihood import Score, base_probabilities, log_likelihood
from gener_jax.inference.prediction import Predictions, predict
from gener_jax.inference.prompt import REMAINDERS, Encoded, Prompt, as_prompt, as_prompts
from gener_jax.inference.region import RegionScorer, RegionScores, Saturation, saturate
from gener_jax.inference.samplers import Bases, Sampler, of_options
from gener_jax.inference.variants.genome import Aliases, Genome
from gener_jax.inference.variants.interval import Interval
from gener_jax.inference.variants.scoring import Scorer
from gener_jax.inference.variants.variant import Scored, Variant
from gener_jax.model import decoder, kernels, memory, sharding
from gener_jax.runtime.errors import InputError, whole, within
from gener_jax.storage import heads, pretrained, provenance
from gener_jax.storage.provenance import Provenance, unseen

_STEPS = 64  # tokens decoded per call of the program: Ctrl-C is seen between calls


class LM:
    """A model, its tokenizer and its parameters on a mesh."""

    def __init__(
        self,
        spec: ModelSpec,
        params,
        mesh: jax.sharding.Mesh,
        step: int | None = None,
        provenance: Provenance | None = None,
        head: Head | None = None,
        head_params=None,
        weights: str | None = None,
    ):
        """`params` may be stacked or by layer, and are kept by layer; `step` is that of their checkpoint, if any.

        `provenance` is what is known of the model's training, if anything; see `warn_unseen`. `head` and its parameters
        (see `model.heads`) are those of a fine-tuned model. `weights`: see `load`.
        """
        self.spec, self.params, self.mesh, self.step = spec, decoder.unstack(params), mesh, step
        self.provenance, self._warned = provenance, set()
        self.head, self.head_params, self.weights = head, head_params, weights
        self.tokenizer = spec.tokenizer.make()
        self.model = decoder.Decoder(kernels.for_any_mask(spec.model))

    @property
    def k(self) -> int:
        """Bases per token; 1 of a tokenizer of byte pairs, whose tokens hold at least so many."""
        return self.tokenizer.k if self.tokenizer.kind == "kmer" else 1

    @property
    def max_bases(self) -> int | None:
        """The longest input in bases, for which the positions have room with <s> (v2: with both); None: of any length.

        With byte pairs, longer ones may fit too.
        """
        longest, added = self.spec.model.max_length, 2 if self.spec.prompt_convention == "v2" else 1
        return None if longest is None else (longest - added) * self.k

    @property
    def num_layers(self) -> int:
        """Layers of the decoder: the last that `embed` takes as `layer`."""
        return self.spec.model.num_hidden_layers

    def __repr__(self) -> str:
        model, devices = self.spec.model, self.mesh.devices.flat
        size, longest = decoder.num_parameters(model), model.max_length
        context = "of any length" if longest is None else f"{longest:,} tokens"
        if longest is not None and self.tokenizer.kind == "kmer":
            context += f" ({longest * self.k:,} bases)"
        parts = [f"{size:,} parameters", f"tokenizer {self.tokenizer.name}", f"context {context}", model.dtype]
        parts += [] if self.weights in (None, model.dtype) else [f"weights {self.weights}"]
        parts += [] if self.head is None else [f"head {self.head.problem} of {len(self.head.names)}"]
        parts += [f"{len(devices)} {devices[0].device_kind}", *([] if self.step is None else [f"step {self.step}"])]
        return f"LM({self.spec.name}: {', '.join(parts)})"

    def warn_unseen(self, rows: Iterable[np.ndarray], *, framed: bool = False) -> None:
        """Warns, once each, of what rows of ids hold that the model cannot have learned; see `provenance.unseen`.

        `framed`: the last <s> of a row stands for the sequence before it.
        """
        if self.provenance is not None:
            for problem in sorted(unseen(self.provenance, rows, framed=framed)):
                self._warn_once(problem)

    def _warn_once(self, problem: str) -> None:
        if problem not in self._warned:
            self._warned.add(problem)
            warnings.warn(f"{self.spec.name} {problem}", stacklevel=5)

    def frame(self, ids: np.ndarray) -> np.ndarray:
        """The ids of a sequence framed for embedding, int32 [tokens]; see `framing.framed`.

        In both conventions the embedding is the hidden state of the last token, which in v2 is the separator.

        Raises:
          InputError: if the convention is unknown.
        """
        return framed(self.spec, ids)

    def embed(
        self,
        sequences: Iterable[str | Prompt],
        *,
        pooling: str = "last",
        layer: int | None = None,
        chunks: int = 1,
        remainder: str = "oov",
        batch_tokens: int | None = None,
    ) -> np.ndarray | list[np.ndarray]:
        """Embeddings, float32 [sequences, chunks · hidden], in the order of the sequences.

        Args:
          sequences: DNA, which special tokens may precede (see `Prompt`); framed by the model's own convention (see
            `frame`).
          pooling: "last", the hidden state of the last token, with framing; "separator", the same, allowed only in v2,
            where that token is the second <s>; "mean", over all tokens, with framing; "tokens", a list with the hidden
            states of all tokens, float32 [tokens, hidden] per sequence (several chunks are concatenated, each framed).
          layer: 0, the token embeddings; i, the output of layer i before the final norm; None, after the final norm.
          chunks: split each sequence into this many chunks of tokens, as equal as possible, embed each alone and
            concatenate the embeddings: GENERator's method for sequences longer than the context.
          remainder: how bases left over at the end are encoded: "oov", one <oov>, as published; or "trim_left",
            "pad_left", "error" (see `Tokenizer.encode`).
          batch_tokens: tokens per batch, including padding [16 384 on a CPU, 65 536 on an accelerator].

        Raises:
          InputError: if an option is invalid, or a sequence is not DNA, exceeds the model's positions, or has fewer
            tokens than chunks.
        """
        return embed(
            self, sequences, pooling=pooling, layer=layer, chunks=chunks, remainder=remainder,
            batch_tokens=tokens_per_batch(batch_tokens),
        )  # fmt: skip

    def predict(self, sequences: Iterable[str | Prompt], *, batch_tokens: int | None = None) -> Predictions:
        """What the head of a fine-tuned model predicts for each sequence, in their order.

        >>> import gener_jax
        >>> lm = gener_jax.load("runs/promoter")
        >>> found = lm.predict(["ACGTTGCA" * 20, "TTGACATATAAT" * 10])
        >>> found.names, found.probabilities.shape
        (('other', 'promoter'), (2, 2))
        >>> set(found.labels) <= set(found.names)
        True

        Args:
          sequences: DNA, which special tokens may precede (see `Prompt`); framed as in training (see
            `framing.Framing`).
          batch_tokens: tokens per batch, including padding [16 384 on a CPU, 65 536 on an accelerator].

        Raises:
          InputError: if the model has no head or one of a label per base (see `annotate`), or a sequence is not DNA, is
            shorter than a token, or exceeds the context that the head was trained for.
        """
        return predict(self, sequences, batch_tokens=tokens_per_batch(batch_tokens))

    def annotate(self, sequences: Iterable[str | Prompt], *, batch_tokens: int | None = None) -> list[np.ndarray]:
        """The probabilities of the classes of each base, float32 [bases, classes] per sequence (names `lm.head.names`),
        by a model that was fine-tuned on labels per base.

        Sequences may have any length: they are cut into overlapping windows of the head's context, and a base gets
        what the window predicts in which it is furthest from an end. They are of both strands. The bases of a sequence
        shorter than a k-mer are NaN.

        Args:
          sequences: DNA, without special tokens.
          batch_tokens: tokens per batch, of one strand, including padding [16 384 on a CPU, 65 536 on an accelerator].

        Raises:
          InputError: if the model has no such head, or a sequence is not DNA.
        """
        return annotate(self, sequences, batch_tokens=tokens_per_batch(batch_tokens))

    def log_likelihood(
        self,
        sequences: Iterable[str | Prompt],
        *,
        score: str = "token",
        strand: str = "+",
        per_base: bool = False,
        special_tokens: bool = True,
        batch_tokens: int | None = None,
    ) -> list[Score]:
        """The score of each sequence after <s>, in the order of the sequences; see `Score`.

        Args:
          sequences: DNA of any length (see `Prompt`). Special tokens may precede it (`<mam><cds>ATG…`); they are
            conditioned on and not scored. A base other than A, C, G and T is marginalized over, and later tokens see
            its token as <oov>.
          score: "token", the log-likelihood, or "base", the mean log-probability of each base in its own marginal.
          strand: "+", "-" (the reverse complement after the same special tokens), or "both", the mean of the two.
          per_base: also return each base's term.
          special_tokens: take the softmax over the full vocabulary, as published; False excludes the special tokens,
            so that the likelihoods of all sequences of a length add up to 1.
          batch_tokens: tokens per batch, including padding [16 384 on a CPU, 65 536 on an accelerator].

        Raises:
          InputError: if an option is unknown, or a sequence has no DNA, holds other characters, or has more tokens than
            the model has positions.
        """
        return log_likelihood(
            self, sequences, score=score, strand=strand, per_base=per_base, special_tokens=special_tokens,
            batch_tokens=tokens_per_batch(batch_tokens),
        )  # fmt: skip

    def base_probabilities(
        self,
        sequences: Iterable[str | Prompt],
        *,
        given: str = "tokens",
        phases: int = 1,
        batch_tokens: int | None = None,
    ) -> list[np.ndarray]:
        """Probabilities of A, C, G and T (in this order) at each base, float32 [bases, 4] per sequence.

        The four add up to 1.

        Args:
          sequences: as for `log_likelihood`.
          given: "tokens", each base's marginal given the tokens before its own; "bases", given also the bases before
            it in its own token (its conditional probability given all bases before it).
          phases: 1 tokenizes the sequence from its first base; k averages over all k positions of each base in its
            token (for the first k - 1 bases, over the possible ones). k is 6 for the published models.
          batch_tokens: tokens per batch, including padding [16 384 on a CPU, 65 536 on an accelerator].

        Raises:
          InputError: as for `log_likelihood`.
        """
        batch_tokens = tokens_per_batch(batch_tokens)
        return base_probabilities(self, sequences, given=given, phases=phases, batch_tokens=batch_tokens)

    def score_variants(
        self,
        variants: Iterable[str | Variant | tuple[str, int, str, str]],
        genome: Genome | dict[str, str] | str | Path,
        *,
        protocol: str = "next_kmer",
        context: int | None = None,
        phases: int = 1,
        strand: str = "+",
        marginals: bool = False,
        aliases: Aliases = (),
        batch_tokens: int | None = None,
    ) -> Iterator[Scored]:
        """Yields the log-likelihood ratio of each variant, reference minus alternate, in the order of the variants.

        A positive `llr` means that the model prefers the reference allele. See `variants.scoring` and its protocols.

        Args:
          variants: each a text such as "chr17:43045705:T:A" (see `Variant.parse`; 1-based), a `Variant`, or (contig,
            start, ref, alt), start 0-based.
          genome: a `Genome`, sequences by name, or the path of a FASTA file, of which only the contexts are read if
            its index (.fai; for bgzip also .gzi) is beside it.
          protocol: "next_kmer" scores the alleles given the bases before the variant; "window" scores the window around
            it; "equal_window" does so with windows of the same length, also of insertions and deletions. The old names
            "right_edge" and "centred" of the first two are accepted.
          context: bases before the variant, or in the window [8192, or as many as the model's positions hold with
            room for the alleles].
          phases: 1, as published; k (6), the mean over all positions of the variant in its k-mer, with the spread.
          strand: "+", "-", or "both", the mean of the two.
          marginals: ("window" only) score by the mean over bases of the log of the six marginals, instead of by the
            likelihood.
          aliases: other names of contigs: groups of names for the same one, or a file of them: the names of a contig
            per line, separated by tabs, or NCBI's assembly report. See `data_pipeline.formats.contigs` for the names
            that need none.
          batch_tokens: tokens per batch, including padding [16 384 on a CPU, 65 536 on an accelerator].

        Raises:
          InputError: if an option is invalid, or the context exceeds the model's positions. A variant that cannot be
            scored raises nothing; its `flag` gives the reason.
          DataError: if the file is not FASTA, or that of the aliases cannot be read.
        """
        scorer = Scorer(
            self, protocol=protocol, context=context, phases=phases, strand=strand, marginals=marginals,
            batch_tokens=batch_tokens,
        )  # fmt: skip
        if isinstance(variants, str | Variant):
            raise InputError("must be a list; for a single variant give a list of one", "variants", variants)
        return scorer(map(Variant.of, variants), Genome.of(genome, aliases))

    def score_region(
        self,
        interval: str | Interval,
        genome: Genome | dict[str, str] | str | Path,
        *,
        given: str = "bases",
        phases: int = 1,
        strand: str = "+",
        context: int | None = None,
        aliases: Aliases = (),
        batch_tokens: int | None = None,
    ) -> RegionScores:
        """The probabilities of A, C, G and T at each base of a region, given the bases before it in the genome.

        >>> import gener_jax
        >>> lm = gener_jax.load("tiny")
        >>> scores = lm.score_region("chr1:101-110", {"chr1": "ACGTTGCA" * 40})
        >>> scores.reference, scores.log_p.shape, scores.probabilities.shape
        ('TGCAACGTTG', (10,), (10, 4))

        Args:
          interval: an `Interval`, 0-based, or its text such as "chr1:101-200", 1-based; of any length.
          genome, aliases: as for `score_variants`.
          given, phases: as for `base_probabilities`.
          strand: "+", given the bases before each; "-", given those after it, on the minus strand; "both", the mean of
            the two probabilities. Results are always in the order and letters of the + strand.
          context: bases before the region, and before each window of a region that exceeds the model's positions
            [8192, or half of what the positions hold].
          batch_tokens: tokens per batch, including padding [16 384 on a CPU, 65 536 on an accelerator].

        Raises:
          InputError: if an option is invalid, or the region is not in the genome.
          DataError: as `score_variants`.
        """
        scorer = RegionScorer(
            self, given=given, phases=phases, strand=strand, context=context, batch_tokens=batch_tokens
        )
        return scorer(interval, Genome.of(genome, aliases))

    def saturation(
        self,
        interval: str | Interval,
        genome: Genome | dict[str, str] | str | Path,
        *,
        protocol: str = "next_kmer",
        context: int | None = None,
        phases: int = 1,
        strand: str = "+",
        marginals: bool = False,
        aliases: Aliases = (),
        batch_tokens: int | None = None,
    ) -> Saturation:
        """The log-likelihood ratios of all substitutions in a region: saturation mutagenesis.

        >>> import gener_jax
        >>> lm = gener_jax.load("tiny")
        >>> found = lm.saturation("chr1:101-104", {"chr1": "ACGTTGCA" * 40}, context=60)
        >>> found.llr.shape, len(list(found.rows()))
        ((4, 4), 12)

        Args:
          interval: as for `score_region`.
          genome, protocol, context, phases, strand, marginals, aliases, batch_tokens: as for `score_variants`, whose
            scores of these variants are the same.

        Raises:
          InputError: if an option is invalid, or the region is not in the genome.
          DataError: as `score_variants`.
        """
        scorer = Scorer(
            self, protocol=protocol, context=context, phases=phases, strand=strand, marginals=marginals,
            batch_tokens=batch_tokens,
        )  # fmt: skip
        return saturate(scorer, interval, Genome.of(genome, aliases))

    def dependency_map(
        self,
        sequence: str | Prompt,
        *,
        window: tuple[int, int] | None = None,
        strand: str = "both",
        given: str = "bases",
        phases: int = 1,
        batch_tokens: int | None = None,
    ) -> np.ndarray:
        """How much the prediction of each base depends on each other base, float32 [bases, bases], in bits.

        Entry (i, j) is the largest change of the log2-odds of any base at j when base i is replaced by another (see
        `inference.dependency`). The model is causal: on the + strand, j follows i, and all else is 0; on the − strand,
        j precedes i. The diagonal is 0. It scores three sequences per base and strand; see
        `plotting.region.dependencies` for the picture.

        >>> import gener_jax
        >>> lm = gener_jax.load("tiny")
        >>> found = lm.dependency_map("ACGTTGCAGG" * 6, window=(36, 60), strand="+")
        >>> found.shape, bool(found[0, 1:].any()), bool(found[1:, 0].any())
        ((24, 24), True, False)

        Args:
          sequence: as for `log_likelihood`.
          window: (start, end), 0-based, end exclusive: the bases that the map is of; those outside are context. None:
            all.
          strand: "+", "-", or "both": the triangle of each strand from that strand.
          given: as for `base_probabilities`. With "tokens", a base does not depend on those of its own token.
          phases: as for `base_probabilities`: 1 tokenizes each strand from its first base, so that a token's edges show
            in the map; k averages the probabilities over all positions of the tokens, at k times the cost.
          batch_tokens: tokens per batch, including padding [16 384 on a CPU, 65 536 on an accelerator].

        Returns:
          The map; NaN in the rows and columns of unknown bases.

        Raises:
          InputError: as for `base_probabilities`, or if the window is not within the sequence.
        """
        return dependency_map(
            self, sequence, window=window, strand=strand, given=given, phases=phases, batch_tokens=batch_tokens
        )

    def logits(self, ids) -> np.ndarray:
        """Next-token logits, float32 [batch, length, vocabulary], of token ids [batch, length].

        Raises:
          InputError: if the ids are not integers [batch, length] in the vocabulary, or exceed the model's positions.
        """
        try:
            ids = np.asarray(ids)
        except ValueError:
            raise InputError("must be integers [batch, length], not rows of different lengths", "ids") from None
        if ids.ndim != 2 or ids.dtype.kind not in "iu":
            raise InputError(f"must be integers [batch, length], not {ids.dtype} {list(ids.shape)}", "ids")
        if ids.size and not 0 <= ids.min() <= ids.max() < self.tokenizer.vocab_size:
            raise InputError(f"must be in [0, {self.tokenizer.vocab_size}), not from {ids.min()} to {ids.max()}", "ids")
        self.check_length(ids.shape[1], "ids")
        if not ids.size:
            return np.zeros((*ids.shape, self.tokenizer.vocab_size), np.float32)
        with sharding.on(self.mesh):
            return np.asarray(_logits(self.model, self.params, jnp.asarray(ids, jnp.int32)))

    def check_length(self, tokens: int, argument: str, value=None) -> None:
        """Checks that an argument which needs this many tokens fits the model's positions; warns if it exceeds those of
        training, where they are known.

        Raises:
          InputError: of `argument` and `value`, if it does not.
        """
        model, longest = self.spec.model, self.spec.model.max_length
        if longest is not None and tokens > longest:
            per_token = f" of {self.tokenizer.k} bases" if self.tokenizer.kind == "kmer" else ""
            settings = [("model.sliding_window", model.max_position_embeddings)]
            if model.linear_factor == model.llama3_factor == 1:
                settings.append(("model.yarn_factor", -(-tokens // model.max_position_embeddings)))
            problem = f"needs up to {tokens} tokens{per_token}, but the model was made for {longest}"
            if argument == "context":
                problem += f"; a shorter one is enough to score, such as {longest // 2 * self.tokenizer.k}"
            raise InputError(problem, argument, value, settings=settings)
        trained = self.provenance and self.provenance.context_length
        window = self.spec.model.sliding_window or longest
        if trained and min(tokens, window) > trained * self.spec.model.yarn_factor:
            self._warn_once(f"was trained in windows of {trained} tokens: it has not learned to use more context")

    def generate(
        self,
        prompts: Iterable[str | Prompt],
        num_bases: int,
        *,
        num_samples: int = 1,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        mode: str = "token",
        sampler: Sampler | None = None,
        seed: int | Sequence[int] = 0,
        stop: Sequence[str] = (),
        remainder: str = "constrain",
        constraints: Iterable[Constraint] = (),
        log_probs: bool = False,
        details: bool = False,
        batch_size: int = BATCH_SIZE,
        on_batch: Callable[[int, int], None] | None = None,
    ) -> list:
        """Continues each prompt by exactly `num_bases` bases, or fewer if a token of `stop` or a stop codon ends it.

        Returns the continuations alone, without their prompts; the command `gener-jax sample` writes both.

        Args:
          prompts: DNA of any length, which special tokens may precede (`<mam><cds>ATG`); see `Prompt` for what a
            sequence may be. `<s>` is prepended. A prompt may be empty.
          num_bases: bases to generate per continuation.
          num_samples: continuations per prompt; they are adjacent in the result.
          temperature: 0 is greedy; otherwise from 0.001 to 1000 (see `samplers.Tokens`).
          top_k: sample among the k most likely tokens; 0: all.
          top_p: sample among the fewest most likely tokens whose probabilities add up to at least p, above 0.
          mode: "token", or "base", which samples each base from its own distribution (see `samplers.Bases`).
          sampler: instead of the four, one of `samplers` or your own; see `samplers.Sampler`.
          seed: one for all (each row gets its own stream), or one per row of the result; a row's sample depends on its
            seed and prompt, not on the batch.
          stop: special tokens, such as "</s>", that end a row, where the constraints hold; no other special token is
            ever generated.
          remainder: how a prompt that is not a whole number of k-mers is read. "constrain": its last bases fix the
            beginning of the first generated token exactly, so the continuation follows without a gap. "trim_left" and
            "pad_left" (with A) change the prompt's beginning, as the authors recommend.
          constraints: on the sequence, such as `Constraints(max_homopolymer=5, stop_codon=True)`, which also says
            whether stop codons end it; or a list of constraints, your own among them (see `constraints.Constraint`).
          log_probs: also return the log-probability of each base.
          details: return `Continuation`s, which include the reason each one ends; implied by `log_probs`. Otherwise
            strings.
          batch_size: rows decoded together.
          on_batch: called after each batch with its number of continuations and of their bases, to show progress.

        Raises:
          InputError: if an argument is invalid: a prompt is not DNA or exceeds the model's positions, the number of
            seeds is not that of rows, or no sequence satisfies the constraints.
          MemoryError: if the KV cache will not fit.
        """
        prompts = as_prompts(prompts, "prompts")
        num_bases, num_samples = whole(num_bases, "num_bases"), whole(num_samples, "num_samples", 1)
        batch_size = whole(batch_size, "batch_size", 1)
        sampler = of_options(temperature, top_k, top_p, mode, sampler)
        named = {f"prompts[{i}]": prompt for i, prompt in enumerate(prompts)}
        encoded, options = self._prepare(named, num_bases, remainder, sampler, stop, constraints, log_probs)
        keys = _keys(seed, len(prompts) * num_samples)
        order = sorted(range(len(keys)), key=lambda i: len(encoded[i // num_samples].ids))  # less padding
        longest = max((len(prompt.ids) for prompt in encoded), default=0)
        size = cache_size(min(len(keys), batch_size), longest, num_bases, self.tokenizer)
        int8 = weights_of.are_int8(self.spec.model, self.weights)
        if line := memory.inference_shortage(self.spec, self.mesh, *size, int8=int8):
            raise MemoryError(line)
        found = [None] * len(keys)
        for first in range(0, len(order), batch_size):
            chosen = order[first : first + batch_size]
            prompt_of = [i // num_samples for i in chosen]
            distinct = list(dict.fromkeys(prompt_of))
            index = [distinct.index(p) for p in prompt_of]
            names = [f"prompts[{i // num_samples}], sample {i % num_samples + 1}" for i in chosen]
            batch = Batch(self, [encoded[p] for p in distinct], index, names, keys[np.array(chosen)], *options)
            most = batch.state.ids.shape[1]
            for until in range(_STEPS, most + _STEPS, _STEPS):
                if not batch.advance(min(until, most)):
                    break
            for i, continuation in zip(chosen, batch.continuations(), strict=True):
                found[i] = continuation
            if on_batch is not None:
                on_batch(len(chosen), sum(len(found[i].text) for i in chosen))
        return found if details or log_probs else [x.text for x in found]

    def stream(
        self,
        prompt: str | Prompt,
        num_bases: int,
        *,
        every: int = 60,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        mode: str = "token",
        sampler: Sampler | None = None,
        seed: int = 0,
        stop: Sequence[str] = (),
        remainder: str = "constrain",
        constraints: Iterable[Constraint] = (),
    ) -> Iterator[str]:
        """Yields the continuation that `generate` returns for one prompt, about `every` bases at a time.

        Raises:
          InputError: as `generate`.
        """
        num_bases, every = whole(num_bases, "num_bases"), whole(every, "every", 1)
        seed = within(seed, "seed", SEED)
        named = {"prompt": as_prompt(prompt, "prompt")}
        sampler = of_options(temperature, top_k, top_p, mode, sampler)
        encoded, options = self._prepare(named, num_bases, remainder, sampler, stop, constraints)
        batch = Batch(self, encoded, [0], list(named), _keys(seed, 1), *options)
        done, tokens, growing = 0, 0, True
        while growing:
            tokens += -(-every // int(self.tokenizer.token_bases.max()))
            growing = batch.advance(tokens)
            (continuation,) = batch.continuations()
            if len(continuation.text) > done:
                yield continuation.text[done:]
            done = len(continuation.text)

    def _prepare(self, prompts: dict[str, Prompt], num_bases: int, remainder: str, sampler: Sampler,
                 stop: Sequence[str], constraints: Iterable[Constraint] | None, log_probs: bool = False):  # fmt: skip
        """The prompts in tokens, and the arguments of `Batch` after the keys; the prompts' names are for errors."""
        if remainder not in REMAINDERS:
            raise InputError(f"must be one of {', '.join(REMAINDERS)}", "remainder", remainder)
        constraints = _listed(constraints)
        if self.tokenizer.kind != "kmer":
            for name, value, given in (("mode", "base", isinstance(sampler, Bases)),
                                       ("log_probs", log_probs, log_probs),
                                       ("constraints", constraints, constraints)):  # fmt: skip
                if given:
                    raise InputError(f"needs a k-mer tokenizer, not {self.tokenizer.name}", name, value)
        options = num_bases, remainder, bool(log_probs or constraints)
        encoded = [encode(self, prompt, name, *options) for name, prompt in prompts.items()]
        _check(constraints, prompts, encoded, num_bases)
        for name in stop:
            if name not in SPECIAL_TOKENS:
                raise InputError(f"must be among {' '.join(SPECIAL_TOKENS)}", "stop", name)
        stops = np.array([token in stop for token in self.tokenizer.tokens])
        self.warn_unseen([*(ids for ids, _, _ in encoded), np.flatnonzero(stops)])
        return encoded, (num_bases, sampler, stops, constraints, log_probs)


def _check(constraints: list[Constraint], prompts: dict[str, Prompt], encoded: list[Encoded], num_bases: int) -> None:
    """Refuses constraints that no continuation satisfies; warns of prompts that have what they forbid."""
    checks = [constraint.check for constraint in constraints if hasattr(constraint, "check")]
    broken = {
        name: [w for check in checks for w in check(x, num_bases)] for name, x in zip(prompts, encoded, strict=True)
    }
    names = [name for name, what in broken.items() if what]
    if names:
        text = str(prompts[names[0]])
        others = f" ({len(names) - 1} more of the prompts have such DNA)" if len(names) > 1 else ""
        warnings.warn(
            f"{names[0]}, {text if len(text) <= 60 else text[:60] + '…'}, has {' and '.join(broken[names[0]])}; the "
            f"constraints hold only for what is generated after it{others}",
            stacklevel=4,
        )


def _listed(constraints: Iterable[Constraint] | None) -> list[Constraint]:
    if constraints is None:
        return []
    found = list(constraints) if isinstance(constraints, Iterable) else [constraints]
    if isinstance(constraints, Mapping) or not all(hasattr(x, "prepare") for x in found):
        raise InputError("must be gener_jax.Constraints(...), or a list of constraints", "constraints", constraints)
    return found


@functools.partial(jax.jit, static_argnames="model")
def _logits(model, params, ids):
    hidden, _ = model.apply({"params": params}, ids)
    return model.apply({"params": params}, hidden, method="logits")


def _keys(seed: int | Sequence[int], rows: int) -> jax.Array:
    """One random key per row, [rows]."""
    seeds = np.asarray(seed, object)
    if not seeds.ndim:
        key = jax.random.key(within(seed, "seed", SEED))
        return jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(rows, dtype=np.uint32))
    seeds = [within(each, f"seed[{i}]", SEED) for i, each in enumerate(seeds)]
    if len(seeds) != rows:
        raise InputError(
            f"{len(seeds)} seeds for {rows} rows; give one for all, or one per prompt and sample", "seed", seed
        )
    return jax.vmap(jax.random.key)(np.array(seeds, np.uint32))


def load(
    folder: str | Path,
    *,
    step: int | str | None = None,
    mesh: jax.sharding.Mesh | None = None,
    prompt_convention: str | None = None,
    download: bool = False,
    check_memory: bool = True,
    weights: str | None = None,
    **model,
) -> LM:
    """Loads the model of a folder.

    >>> import gener_jax
    >>> lm = gener_jax.load("tiny")
    >>> [continuation] = lm.generate(["ATG"], num_bases=12)
    >>> len(continuation)
    12
    >>> [score] = lm.log_likelihood(["ATGAAAAAATAA"])
    >>> score.value < 0  # nats
    True

    Args:
      folder: a run's folder, written by `gener_jax.train`; a Hugging Face folder with config.json and safetensors;
        "tiny", the small model that ships with the package; or a name in the local Hugging Face cache, such as
        "GenerTeam/GENERator-v2-eukaryote-1.2b-base".
      step: for a run's folder: a checkpoint's step, "best" by the metric of checkpoint.best, or None for the newest,
        of a fine-tuned run the best.
      mesh: None: all devices along fsdp if their number divides the hidden size, else the first device alone.
      prompt_convention: "v1" or "v2", how sequences are framed for embeddings; None: as the folder or its name
        implies (see `LM.frame`).
      download: download a name that is not in the cache; needs `pip install -e '.[hub]'`.
      check_memory: raise before loading a model that does not fit.
      weights: the type that the weights are held in, for inference alone: "float32"; "bfloat16"; "int8", with a scale
        per output and the embedding and the output head in bfloat16. On an accelerator, bfloat16 and int8 compute in
        bfloat16; a CPU, which is slow at both, widens the rounded weights and computes in float32. None: the model's
        `dtype` for both.
      model: other fields of `spec.model`. dtype="bfloat16" computes and stores in bfloat16. For longer inputs:
        yarn_factor=4 (YaRN), rope_theta=5e6 with max_position_embeddings=65536 (another base), sliding_window=16384.

    Raises:
      CheckpointError: if the folder cannot be read, has no such checkpoint, or holds an unsupported model.
      ConfigError: if the model has no such field, or a value is invalid.
      InputError: if `step` is neither a whole number nor "best", `weights` are unknown, or `dtype` is given with them.
      MemoryError: if the weights do not fit on the devices.
    """
    if step is not None and step != "best":
        step = whole(step, "step")
    folder = pretrained.find(folder, download=download)
    if weights is not None and "dtype" in model:
        raise InputError("decides the dtype too; leave dtype out", "weights", weights)
    spec = with_model(pretrained.read_spec(folder), **model)
    if prompt_convention is not None:
        spec = dataclasses.replace(spec, prompt_convention=prompt_convention)
    return from_spec(spec, folder, step=step, mesh=mesh, check_memory=check_memory, weights=weights)


def from_spec(
    spec: ModelSpec,
    folder: Path,
    *,
    step: int | str | None = None,
    mesh=None,
    check_memory: bool = True,
    batch: int = 1,
    tokens: int = 0,
    weights: str | None = None,
) -> LM:
    """Loads the model of a folder with a changed spec; for commands.

    A KV cache of `batch` rows of `tokens` tokens must fit next to the weights. `weights`: see `load`.

    Raises:
      CheckpointError: if the folder cannot be read, or has no such checkpoint.
      InputError: if `weights` are unknown.
      MemoryError: if weights and cache do not fit on the devices.
    """
    spec, mesh = weights_of.computed(spec, weights), mesh or _default_mesh(spec)
    int8 = weights_of.are_int8(spec.model, weights)
    if check_memory:
        if line := memory.inference_shortage(spec, mesh, batch, tokens, int8=int8):
            raise MemoryError(line)
        if line := memory.inference_shortage(spec, mesh, 1, spec.model.max_length or 0, int8=int8):
            warnings.warn(f"a whole context will not fit: {line}", stacklevel=3)
    head = heads.read(folder)
    params, head_params, step = pretrained.read_model(
        folder, spec.model, mesh, step=step, by_layer=True, keep=weights_of.keep(spec.model, weights),
        dtype="float32" if weights == "int8" else weights or spec.model.dtype,
    )  # fmt: skip
    if head is not None:
        heads.check(folder, head, head_params or {}, spec.model.hidden_size, spec.tokenizer.k)
    return LM(spec, params, mesh, step, provenance.read(folder), head, head_params, weights)


def _default_mesh(spec: ModelSpec) -> jax.sharding.Mesh:
    divides = spec.model.hidden_size % len(jax.devices()) == 0
    return sharding.make_mesh(1, -1, 1, None if divides else jax.devices()[:1])


def random_weights(spec: ModelSpec, mesh: jax.sharding.Mesh | None = None, *, seed: int = 0) -> LM:
    """A model of this shape that has learned nothing: weights as training begins with; what any model has to beat."""
    mesh = mesh or _default_mesh(spec)

    def init(key):
        params = nn.unbox(decoder.init(decoder.Decoder(spec.model), key))
        return traverse_util.path_aware_map(
            lambda path, x: x if path[-1] == "scale" else x.astype(spec.model.dtype), params
        )

    shardings = jax.tree.map(lambda x: x.sharding, pretrained.abstract_params(spec.model, mesh))
    return LM(spec, decoder.unstack(jax.jit(init, out_shardings=shardings)(jax.random.key(seed)), donate=True), mesh)
