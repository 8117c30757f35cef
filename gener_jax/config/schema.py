"""Every setting of a run, declared once: frozen dataclasses that check their values. Each field is a flag too.

In each section, the fields after "Advanced" are those that few runs change.
"""

import dataclasses
import itertools
from collections.abc import Iterator

from data_pipeline.ranges import SEED, Range, Real, Whole
from data_pipeline.sequence import tokenizer
from gener_jax.runtime.errors import ConfigError
from gener_jax.runtime.progress import log


def _require(condition: bool, field: str, value, problem: str) -> None:
    if not condition:
        raise ConfigError(problem, field, value)


def _fields_of(section: str, values):
    """Returns `check(names, condition, problem)`, which raises unless the value of each field meets the condition.

    A condition that is a range also makes the value a number of Python; a field whose default is None may be None.
    """
    optional = {field.name for field in dataclasses.fields(values) if field.default is None}

    def check(names: str, condition, problem: str = "") -> None:
        for name in names.split():
            value = getattr(values, name)
            if isinstance(condition, Range):
                accepted = value in condition or (value is None and name in optional)
                problem = f"must be {condition}" + (", or none" if name in optional else "")
            else:
                accepted = condition(value) if callable(condition) else condition
            _require(accepted, f"{section}.{name}", value, problem)
            if isinstance(condition, Range) and value is not None:
                object.__setattr__(values, name, condition.type(value))

    return check


def _one_of(choices) -> tuple:
    """The condition and problem of a field whose value must be one of `choices`."""
    return lambda value: value in choices, f"must be one of {', '.join(choices)}"


# At the highest temperature, logits that differ by 100 give probabilities that differ by a tenth; at the lowest, logits
# that differ by 0.01 give probabilities that differ by e^10. Far beyond, float32 overflows or divides by zero.
TEMPERATURE = Real(least=1e-3, most=1e3, zero=True)
TOP_P = Real(above=0, most=1)

_POSITIVE, _NOT_NEGATIVE = Whole(1), Whole(0)
_ABOVE_0, _AT_LEAST_0, _BELOW_1 = Real(above=0), Real(least=0), Real(least=0, below=1)
_FACTOR = Real(least=1, most=65536)  # by which positions are extended


ATTENTION = ("auto", "reference", "blockwise", "cudnn", "triton", "cudnn_packed", "splash")
REMAT = (
    "none",  # recomputes nothing
    "dots",  # recomputes all but matrix products and attention
    "block",  # recomputes each layer from its input, except attention
    "full",  # recomputes each layer from its input
)


@dataclasses.dataclass(frozen=True)
class Model:
    """The decoder; the first block of fields has the names of the published config.json."""

    vocab_size: int | None = None  # tokens of the vocabulary; none: the tokenizer's
    hidden_size: int = 2048  # width of the hidden states
    intermediate_size: int = 5632  # width of the feed-forward layer (SwiGLU)
    num_hidden_layers: int = 26  # layers
    num_attention_heads: int = 32  # query heads; must divide hidden_size unless head_dim is set
    num_key_value_heads: int = 4  # key and value heads, which query heads share; must divide num_attention_heads
    head_dim: int | None = None  # width of a head, even; none: hidden_size / num_attention_heads
    max_position_embeddings: int = 16384  # longest input in tokens, unless YaRN extends it
    rms_norm_eps: float = 1e-5  # added to the mean square in each RMS norm
    rope_theta: float = 500_000.0  # base of the rotary frequencies
    initializer_range: float = 0.02  # standard deviation of new parameters
    sliding_window: int | None = None  # tokens that a token attends to, itself included; none: all before it
    yarn_factor: float = 1.0  # factor by which YaRN extends max_position_embeddings; 1: no YaRN

    dtype: str = "float32"  # compute dtype; parameters are float32
    attention: str = "auto"  # implementation; auto: the kernel of the platform, else blockwise
    attention_block: int = 256  # tokens per block of blockwise attention
    remat: str = "dots"  # what the backward pass recomputes, from least to most

    # Advanced.
    yarn_beta_fast: float = 32.0  # rotations within the context above which a frequency is unchanged
    yarn_beta_slow: float = 1.0  # rotations below which it is divided by yarn_factor
    yarn_attention_factor: float | None = None  # scale of cosine and sine; none: 0.1 ln(yarn_factor) + 1
    linear_factor: float = 1.0  # divides all frequencies, as some published models do; 1: plain RoPE
    llama3_factor: float = 1.0  # divides low frequencies, as Llama 3.1 does; 1: plain RoPE
    llama3_low_freq_factor: float = 1.0  # rotations within llama3_positions below which a frequency is divided
    llama3_high_freq_factor: float = 4.0  # rotations above which it is unchanged
    llama3_positions: int = 8192  # tokens of context before it was extended
    attention_documents: int = 16  # documents per row up to which cudnn_packed computes them, else blockwise
    scan_unroll: int = 1  # layers per scan iteration; num_hidden_layers: no scan, faster on GPUs, and more memory

    def __post_init__(self):
        check = _fields_of("model", self)
        check("hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads", _POSITIVE)
        check("max_position_embeddings attention_block scan_unroll llama3_positions", _POSITIVE)
        check("vocab_size head_dim sliding_window", _POSITIVE)
        check("attention_documents", Whole(2))
        check("rms_norm_eps initializer_range yarn_beta_slow yarn_beta_fast", _ABOVE_0)
        check("llama3_low_freq_factor llama3_high_freq_factor", _ABOVE_0)
        check("rope_theta", Real(above=1, below=1e30))
        check("yarn_factor linear_factor llama3_factor", _FACTOR)
        check("yarn_attention_factor", Real(above=0, most=100))
        heads = self.num_attention_heads
        if self.head_dim is None:
            check(
                "hidden_size", self.hidden_size % heads == 0,
                f"must be divisible by model.num_attention_heads {heads}; change one, or set model.head_dim",
            )  # fmt: skip
            object.__setattr__(self, "head_dim", self.hidden_size // heads)
        check(
            "head_dim", self.head_dim % 2 == 0,
            f"must be even, for RoPE; unless set it is model.hidden_size {self.hidden_size} / "
            f"model.num_attention_heads {heads}",
        )  # fmt: skip
        check(
            "num_key_value_heads",
            heads % self.num_key_value_heads == 0,
            f"must divide model.num_attention_heads {heads}",
        )
        check(
            "max_position_embeddings", self.max_position_embeddings * self.yarn_factor < 2**31,
            f"times model.yarn_factor {self.yarn_factor} must be below 2^31",
        )  # fmt: skip
        check(
            "yarn_beta_fast", self.yarn_beta_fast >= self.yarn_beta_slow,
            f"must be at least model.yarn_beta_slow {self.yarn_beta_slow}",
        )  # fmt: skip
        for name, other in itertools.combinations(("yarn_factor", "linear_factor", "llama3_factor"), 2):
            check(name, 1 in (getattr(self, name), getattr(self, other)), f"must be 1, or model.{other} must be")
        check(
            "llama3_high_freq_factor", self.llama3_high_freq_factor > self.llama3_low_freq_factor,
            f"must be above model.llama3_low_freq_factor {self.llama3_low_freq_factor}",
        )  # fmt: skip
        check("dtype", *_one_of(("float32", "bfloat16")))
        check("attention", *_one_of(ATTENTION))
        check("remat", *_one_of(REMAT))

    @property
    def layers_unrolled(self) -> bool:
        """Whether the layers are compiled one after the other, not as a loop."""
        return self.scan_unroll >= self.num_hidden_layers > 1

    @property
    def max_length(self) -> int | None:
        """The most tokens of an input: the positions of training, extended by YaRN.

        None (no limit) if a sliding window is no longer than that, since no distance then exceeds those of training.
        """
        positions = int(self.max_position_embeddings * self.yarn_factor)
        return None if self.sliding_window is not None and self.sliding_window <= positions else positions


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """How DNA is converted to token ids."""

    kind: str = "kmer"  # k-mers, or byte pairs
    k: int = 6  # bases per k-mer
    model_file: str | None = None  # the sentencepiece model of byte pairs, which kind bpe needs

    def __post_init__(self):
        check = _fields_of("tokenizer", self)
        check("kind", *_one_of(("kmer", "bpe")))
        check("k", tokenizer.K)
        check(
            "model_file", self.kind != "bpe" or self.model_file is not None,
            "tokenizer.kind bpe needs a model: gener-jax data train_bpe DIR --output bpe.model",
        )  # fmt: skip

    def make(self) -> tokenizer.Tokenizer:
        """The tokenizer.

        Raises:
          ConfigError: if its model file cannot be used.
        """
        try:
            return tokenizer.make(self.kind, self.k, self.model_file)
        except ValueError as error:
            raise ConfigError(str(error), "tokenizer", self.model_file or self.kind) from None


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """A model apart from its parameters and from how it was trained: what inference and published folders know."""

    name: str = "base"  # of the run; its folder is runs/NAME unless `--workdir` is given, which then names it
    model: Model = dataclasses.field(default_factory=Model)
    tokenizer: Tokenizer = dataclasses.field(default_factory=Tokenizer)
    prompt_convention: str = "v2"  # framing for embeddings: v1 <s> DNA, v2 <s> DNA <s>, or unknown

    def __post_init__(self):
        known, problem = _one_of(("v1", "v2", "unknown"))
        _require(known(self.prompt_convention), "prompt_convention", self.prompt_convention, problem)
        made, size = self.tokenizer.make(), self.model.vocab_size
        _require(
            size in (None, made.vocab_size), "model.vocab_size", size,
            f"{made.name} has {made.vocab_size} tokens; leave it unset to use the tokenizer's",
        )  # fmt: skip
        object.__setattr__(self, "model", dataclasses.replace(self.model, vocab_size=made.vocab_size))


@dataclasses.dataclass(frozen=True)
class Data:
    """The dataset and how it is read."""

    path: str = "datasets/refseq"  # a folder that gener-jax data build wrote
    build_from: tuple[str, ...] = ()  # annotated genomes to build it from if it does not exist
    storage: str = "bases"  # what a built dataset stores: bases, or token_ids (fixed phase and strand; bpe needs it)
    validation_fraction: float = 0.05  # expected fraction of overlap groups that a build holds out
    context_length: int = 16384  # tokens of input
    random_phase: bool = True  # start each region at a random offset below k bases, new in each epoch
    reverse_complement: bool = False  # read each region on a random strand, new in each epoch
    prefetch: int = 4  # batches that are read in advance

    # Advanced.
    mask_documents: bool = False  # attention does not cross regions in one window
    repeat_weight: float = 1.0  # weight of lower-case (soft-masked) bases in the training loss; others: 1
    num_workers: int = 0  # processes that read data; 0: threads instead

    def __post_init__(self):
        check = _fields_of("data", self)
        check("storage", *_one_of(("bases", "token_ids")))
        check("context_length prefetch", _POSITIVE)
        check("num_workers", _NOT_NEGATIVE)
        check("validation_fraction", Real(above=0, below=1))
        check("repeat_weight", _AT_LEAST_0)
        check(
            "repeat_weight", self.repeat_weight == 1 or self.storage == "bases",
            f"needs lower case, which data.storage {self.storage} does not store; set it to 1, or change data.storage",
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Objective:
    """The training loss: cross-entropy of tokens, or FNS, the cross-entropy of the marginals of their bases."""

    fns_from_step: int | None = None  # steps of cross-entropy before FNS; none: no FNS
    fns_learning_rate: float | None = None  # peak learning rate during FNS; none: unchanged

    # Advanced.
    z_loss: float = 0.0  # coefficient of the squared log-sum-exp of the logits
    compat: bool = False  # FNS adds the probability of special tokens to A, as the published code does

    def __post_init__(self):
        check = _fields_of("objective", self)
        start, rate = self.fns_from_step, self.fns_learning_rate
        check("fns_from_step", _NOT_NEGATIVE)
        check("fns_learning_rate", _ABOVE_0)
        check("z_loss", _AT_LEAST_0)
        without = "has no effect without objective.fns_from_step; set that, or remove this"
        check("fns_learning_rate", start is not None or rate is None, without)
        check("compat", start is not None or not self.compat, without)


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW with linear warm-up and a learning-rate schedule."""

    peak_learning_rate: float = 4e-4  # learning rate after warm-up
    warmup_steps: int = 2000  # in which the learning rate rises; if more than train.num_steps, a tenth of these
    schedule: str = "cosine"  # after warm-up: cosine, or wsd (constant, then linear decay)
    decay_fraction: float = 0.2  # final fraction of the steps, in which wsd decays
    final_learning_rate_ratio: float = 0.1  # learning rate of the last step, relative to the peak
    beta1: float = 0.9  # decay of the mean of gradients
    beta2: float = 0.95  # decay of the mean of squared gradients
    epsilon: float = 1e-8  # added to the root of the latter
    weight_decay: float = 0.1  # for matrices only
    clip_norm: float = 1.0  # largest norm of the whole gradient
    grad_norm_spike_factor: float = 10.0  # skip steps above this times the usual norm; 0: only non-finite ones
    max_consecutive_skips: int = 20  # consecutive skipped steps after which the run stops

    # Advanced.
    state_dtype: str = "float32"  # dtype of the two stored moments; bfloat16 uses stochastic rounding

    def __post_init__(self):
        check = _fields_of("optimizer", self)
        check("schedule", *_one_of(("cosine", "wsd")))
        check("state_dtype", *_one_of(("float32", "bfloat16")))
        check("decay_fraction", Real(above=0, most=1))
        check("final_learning_rate_ratio", Real(least=0, most=1))
        check("grad_norm_spike_factor", Real(above=1, zero=True))
        check("peak_learning_rate epsilon clip_norm", _ABOVE_0)
        check("weight_decay", _AT_LEAST_0)
        check("beta1 beta2", _BELOW_1)
        check("max_consecutive_skips", _POSITIVE)
        check("warmup_steps", _NOT_NEGATIVE)


@dataclasses.dataclass(frozen=True)
class Train:
    """The training loop."""

    num_steps: int = 185_000  # steps of the run
    batch_size: int = 128  # sequences per step, over all devices
    accumulate: int = 1  # microbatches per step, processed one after another
    seed: int = 0  # for parameters and data order
    log_every_steps: int = 10  # steps between lines of log.jsonl
    writers: tuple[str, ...] = ()  # in addition to log.jsonl: tensorboard, wandb
    watchdog_minutes: float = 30.0  # minutes without a step, eval batch or save until a run is stuck; 0: off
    profile_from: int | None = None  # first of the traced steps, whose trace goes to profile/ of the run; none: off
    profile_steps: int = 3  # steps that are traced
    init_from: str | None = None  # folder of the initial parameters: a run's, or a Hugging Face folder; none: random
    allow_changes: tuple[str, ...] = ()  # fields that may differ from those of the resumed run, e.g. "train.num_steps"

    # Advanced.
    gradient_dtype: str = "float32"  # of matrices, as devices sum it: float32, or compute (model.dtype): half the bytes
    wandb_project: str = "gener_jax"  # project of the writer wandb
    compilation_cache: str | None = None  # folder for compiled programs; none: see `storage.compilation`
    check_memory: bool = True  # do not start if the estimate exceeds the memory of a device
    xla_flags: bool = True  # set XLA's flags of `runtime.flags` on GPUs and several TPUs

    def __post_init__(self):
        check = _fields_of("train", self)
        check("num_steps batch_size accumulate log_every_steps profile_steps profile_from", _POSITIVE)
        check("writers", set(self.writers) <= {"tensorboard", "wandb"}, "may contain only tensorboard and wandb")
        check("watchdog_minutes", _AT_LEAST_0)
        check("gradient_dtype", *_one_of(("float32", "compute")))
        check(
            "batch_size", self.batch_size % self.accumulate == 0, f"must be divisible by accumulate {self.accumulate}"
        )
        check("seed", SEED)


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices along each axis; −1: all that remain."""

    data: int = 1  # splits the rows of a batch; parameters are copied
    fsdp: int = -1  # splits rows, and parameters with their optimizer state
    tensor: int = 1  # splits each matrix
    context: int = 1  # splits the sequence

    def __post_init__(self):
        check = _fields_of("mesh", self)
        check("data fsdp tensor context", Whole(-1))
        check("data fsdp tensor context", lambda size: size != 0, "must be positive, or -1")
        sizes = dataclasses.astuple(self)
        _require(sizes.count(-1) < 2, "mesh", sizes, "only one axis may be -1")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """When to save, and how many checkpoints to keep."""

    every_steps: int = 1000  # steps between checkpoints
    keep: int = 2  # newest checkpoints to keep, in addition to the best
    best: str | None = "held_out.bits_per_base"  # the metric that chooses the best, TASK.METRIC; none: keep no best

    def __post_init__(self):
        check = _fields_of("checkpoint", self)
        check("every_steps", _POSITIVE)
        check("keep", Whole(2))  # since the newest may be damaged


@dataclasses.dataclass(frozen=True)
class Eval:
    """The tasks that measure the model during training, and their options."""

    tasks: tuple[str, ...] = ("held_out",)  # tasks by name; `gener-jax evaluate --list` lists them
    split: str = "validation"  # split of the dataset that is evaluated
    every_steps: int = 1000  # steps between evaluations; every checkpoint is evaluated too
    batch_size: int = 8  # windows of one context length
    max_regions: int | None = None  # regions to evaluate, the first in a fixed random order; none: all
    recovery_genes: int = 256  # held-out genes whose next 30 bases the task recovery generates greedily
    baselines: bool = True  # compare with Markov models of order 0 and 5 in the final evaluation
    data: str | None = None  # folder of the field's data, for tasks on variants, labelled sequences and genes
    rows: int | None = None  # rows of each set of that data, chosen in a fixed random order; none: all
    seed: int = 0  # of what tasks choose at random: rows, plants, resamples

    def __post_init__(self):
        check = _fields_of("eval", self)
        check("split", *_one_of(("train", "validation", "test")))
        check("every_steps batch_size recovery_genes max_regions rows", _POSITIVE)
        check("seed", SEED)


@dataclasses.dataclass(frozen=True)
class Sample:
    """What `train` generates at the end."""

    prompts: tuple[str, ...] = ("",)  # special tokens and DNA that samples continue; empty: only <s>
    num_bases: int = 600  # bases per sample
    num_samples: int = 1  # per prompt
    temperature: float = 1.0  # 0: greedy
    top_k: int = 0  # sample among this many most likely tokens; 0: all
    top_p: float = 1.0  # sample among the fewest most likely tokens whose probabilities add up to this; 1: all
    seed: int = 0  # of the samples
    stop_codons: tuple[str, ...] = ("TAA", "TAG", "TGA")  # of the genetic code, for reading-frame statistics

    def __post_init__(self):
        check = _fields_of("sample", self)
        check("prompts", len(self.prompts) > 0, "must contain at least one prompt")
        codons = all(len(codon) == 3 and not set(codon) - set("ACGT") for codon in self.stop_codons)
        check("stop_codons", codons, "must contain codons, of three letters A, C, G or T each")
        check("num_bases top_k", _NOT_NEGATIVE)
        check("num_samples", _POSITIVE)
        check("temperature", TEMPERATURE)
        check("top_p", TOP_P)
        check("seed", SEED)


PROBLEMS = ("single_label", "multi_label", "regression", "token", "causal")
LONG = ("refuse", "truncate", "yarn", "window", "chunks")


@dataclasses.dataclass(frozen=True)
class Finetune:
    """Fine-tuning of the model `train.init_from` on labelled sequences, or on sequences alone (causal)."""

    problem: str | None = None  # single_label, multi_label, regression, token, causal; none: pre-training
    train: tuple[str, ...] = ()  # labelled sequences: files, or a folder whose files are named train, dev, test
    validation: tuple[str, ...] = ()  # none: those of the folder, else one of `folds` of train
    test: tuple[str, ...] = ()  # none: those of the folder, if any
    sequence: str | None = None  # column of the sequences; none: found
    label: tuple[str, ...] = ()  # columns of the labels; none: found
    group: str | None = None  # column of groups, which are held out and resampled as a whole; none: each row alone
    method: str = "full"  # what is trained: full, lora (adapters and the head), frozen (the head)
    epochs: float = 3.0  # passes over the training rows; they set train.num_steps
    metric: str | None = None  # of the validation rows, which chooses the checkpoint; none: the problem's first
    loss: str = "mse"  # of regression, over the whole batch: mse, pearson, pearson_huber
    pooling: str = "last"  # hidden state of a row: that of the last token, of the separator, or the mean
    layer: str = "last"  # whose hidden states: last, the number of a layer, or sweep (the best; frozen only)
    rank: int = 8  # of adapters
    alpha: float = 16.0  # their scale is alpha / rank
    targets: tuple[str, ...] = ("q", "v")  # matrices with adapters, of q, k, v, o, gate, up, down
    long: str = "refuse"  # rows that exceed the context: refuse, truncate, yarn, window, chunks
    baselines: bool = True  # fit k-mer models and a small CNN to the same rows

    # Advanced.
    evals_per_epoch: int = 1  # evaluations of the validation rows; they set eval.every_steps
    patience: int | None = None  # evaluations without a gain after which training ends; none: it does not
    plateau_patience: int | None = None  # evaluations without a gain after which the rate falls; none: it does not
    plateau_factor: float = 0.5  # by which the rate falls
    folds: int = 10  # of the training rows, where there are no validation rows
    fold: int = 0  # the one that is held out
    class_weights: bool = False  # weigh classes by the inverse of their frequency
    reverse_complement: bool = False  # train on a random strand of each row, new in each epoch
    average_strands: bool = False  # predict the mean of both strands
    head_bias: bool = True  # the head adds a bias to its product
    genome: str | None = None  # FASTA of a table of coordinates (chrom, start, end, strand)
    assembly: str | None = None  # that of the FASTA, which must be the table's
    prefix: str = ""  # causal: special tokens before every sequence, such as <bct><cds>
    condition: str | None = None  # causal: column of the special tokens before each sequence, instead of a prefix
    max_identity: float | None = 0.3  # causal: of held-out proteins with training's; none: not coding, share no 32-mer
    remainder: str = "pad"  # causal: bases left over at the end are padded to a k-mer with A, or trim
    padded_loss: bool = False  # causal: padded bases have a loss, as in the published script
    untrimmed: bool = False  # bases left over are <oov>, and truncation removes the separator, as published
    pool_at_end: bool = False  # pool the last position of the padded row, as the published script does

    def __post_init__(self):
        check = _fields_of("finetune", self)
        check("problem", lambda x: x is None or x in PROBLEMS, f"must be one of {', '.join(PROBLEMS)}, or none")
        check("method", *_one_of(("full", "lora", "frozen")))
        check("pooling", *_one_of(("last", "separator", "mean")))
        check("loss", *_one_of(("mse", "pearson", "pearson_huber")))
        check("long", *_one_of(LONG))
        check("remainder", *_one_of(("pad", "trim")))
        check("epochs alpha", _ABOVE_0)
        check("rank evals_per_epoch patience plateau_patience", _POSITIVE)
        check("plateau_factor", Real(above=0, below=1))
        check("folds", Whole(2))
        if self.max_identity is not None:
            check("max_identity", Real(above=0, most=1))
        check("fold", Whole(0, self.folds - 1))
        known = self.layer in ("last", "sweep") or (self.layer.isdecimal() and int(self.layer) > 0)
        check("layer", known, "must be last, sweep, or the number of a layer, from 1")
        check("layer", self.layer != "sweep" or self.method == "frozen", "sweep needs finetune.method frozen")
        matrices = ("q", "k", "v", "o", "gate", "up", "down")
        problem = f"must be of {', '.join(matrices)}"
        check("targets", bool(self.targets) and set(self.targets) <= set(matrices), problem)
        for field in ("reverse_complement", "average_strands"):
            refused = self.problem in ("token", "causal") and getattr(self, field)
            check(field, not refused, f"has no meaning for finetune.problem {self.problem}; set it to false")
        check("condition", self.condition is None or self.problem == "causal", "needs finetune.problem causal")
        alone = self.condition is None or not self.prefix
        check("prefix", alone, "must be empty with finetune.condition, whose column takes its place")
        frozen = self.problem == "causal" and self.method == "frozen"
        check("method", not frozen, "frozen trains nothing in causal fine-tuning, which has no head; use lora or full")

    @property
    def has_head(self) -> bool:
        """Whether the model is fine-tuned on labels, by a head of its own, and does not predict tokens."""
        return self.problem not in (None, "causal")


@dataclasses.dataclass(frozen=True)
class Config(ModelSpec):
    """The configuration of a run: its model and everything else."""

    data: Data = dataclasses.field(default_factory=Data)
    objective: Objective = dataclasses.field(default_factory=Objective)
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    train: Train = dataclasses.field(default_factory=Train)
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    checkpoint: Checkpoint = dataclasses.field(default_factory=Checkpoint)
    eval: Eval = dataclasses.field(default_factory=Eval)
    sample: Sample = dataclasses.field(default_factory=Sample)
    finetune: Finetune = dataclasses.field(default_factory=Finetune)

    def __post_init__(self):
        super().__post_init__()
        longest, m = self.model.max_length, self.model
        _require(
            longest is None or self.data.context_length <= longest, "data.context_length", self.data.context_length,
            f"exceeds model.max_position_embeddings {m.max_position_embeddings}"
            + (f" times model.yarn_factor {m.yarn_factor}" if m.yarn_factor > 1 else ""),
        )  # fmt: skip
        if (warmup := self.optimizer.warmup_steps) > (steps := self.train.num_steps):
            fewer = -(-steps // 10)
            log(
                f"warning: optimizer.warmup_steps {warmup} exceeds train.num_steps {steps}: "
                f"warm-up shortened to {fewer} step{'s' * (fewer > 1)}"
            )
            object.__setattr__(self, "optimizer", dataclasses.replace(self.optimizer, warmup_steps=fewer))
        _require(
            self.tokenizer.kind != "bpe" or self.data.storage == "token_ids", "data.storage", self.data.storage,
            "tokenizer.kind bpe needs a dataset of token ids; set data.storage=token_ids "
            "(gener-jax data build --storage token_ids --tokenizer bpe --model_file FILE)",
        )  # fmt: skip
        _require(
            self.objective.fns_from_step is None or self.tokenizer.kind == "kmer", "objective.fns_from_step",
            self.objective.fns_from_step, "FNS needs k-mers, and tokenizer.kind is bpe; set it to none",
        )  # fmt: skip
        unknown = [name for name in self.train.allow_changes if name not in dict(flatten(self))]
        _require(not unknown, "train.allow_changes", self.train.allow_changes, f"no such field: {', '.join(unknown)}")

    @property
    def spec(self) -> ModelSpec:
        """The model of the run."""
        return ModelSpec(**{field.name: getattr(self, field.name) for field in dataclasses.fields(ModelSpec)})


def flatten(config, path: str = "") -> Iterator[tuple[str, object]]:
    """Yields (dotted name, value) for every field."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from flatten(value, f"{path}{field.name}.")
        else:
            yield path + field.name, value
