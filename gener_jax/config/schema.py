"""Every knob of a run, declared once: frozen dataclasses that check themselves, and the ConfigDict made from them.

An experiment file starts from `base()`, a locked `ml_collections.ConfigDict` with the published recipe, and changes
what differs. `resolve` turns it into a `Config`. Reading files and command lines is `gener_jax.cli.command`'s part.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Iterator, Mapping

from ml_collections import ConfigDict, config_dict

from gener_jax.runtime.errors import ConfigError


def _require(condition: bool, field: str, value, problem: str) -> None:
    if not condition:
        raise ConfigError(problem, field, value)


def _fields_of(section: str, values):
    """`check(name, condition, problem)` for the fields of a section; the condition must hold of each name's value."""

    def check(names: str, condition, problem: str) -> None:
        for name in names.split():
            value = getattr(values, name)
            _require(condition(value) if callable(condition) else condition, f"{section}.{name}", value, problem)

    return check


def _positive(value) -> bool:
    return value > 0


def _not_negative(value) -> bool:
    return value >= 0


def _one_of(choices) -> tuple:
    """The condition and the problem of a field that is one of some choices."""
    return lambda value: value in choices, f"must be one of {', '.join(choices)}"


_POSITIVE = (_positive, "must be positive")
_NOT_NEGATIVE = (_not_negative, "must not be negative")
_SEED = (lambda value: 0 <= value < 2**32, "must be at least 0 and below 2^32")


ATTENTION = ("auto", "reference", "blockwise", "cudnn", "triton", "splash")
REMAT = (
    "none",  # nothing
    "dots",  # all but matrix products and attention
    "block",  # each layer from its input, but not its attention
    "full",  # each layer from its input
)


@dataclasses.dataclass(frozen=True)
class Model:
    """The decoder; the first block has the names of the published config.json."""

    vocab_size: int | None = None  # None: the tokenizer's
    hidden_size: int = 2048
    intermediate_size: int = 5632
    num_hidden_layers: int = 26
    num_attention_heads: int = 32
    num_key_value_heads: int = 4
    head_dim: int | None = None  # None: hidden_size / num_attention_heads
    max_position_embeddings: int = 16384
    rms_norm_eps: float = 1e-5
    rope_theta: float = 500_000.0
    initializer_range: float = 0.02
    sliding_window: int | None = None  # tokens back that a token sees, itself included; None: all
    yarn_factor: float = 1.0  # YaRN stretches max_position_embeddings by this; 1: it does not
    yarn_beta_fast: float = 32.0  # turns in the context above which a pair of dimensions keeps its frequency
    yarn_beta_slow: float = 1.0  # turns below which its frequency is divided by yarn_factor
    yarn_attention_factor: float | None = None  # of cosine and sine; None: 0.1 ln(yarn_factor) + 1

    dtype: str = "float32"  # of the computation; parameters are float32
    attention: str = "auto"  # auto, or one of ATTENTION
    attention_block: int = 256  # tokens
    remat: str = "dots"  # what the backward pass computes again, from least to most: one of REMAT
    scan_unroll: int = 1  # layers a step of the scan; num_hidden_layers unrolls it, and remat then saves little

    def __post_init__(self):
        check = _fields_of("model", self)
        check("hidden_size intermediate_size num_hidden_layers num_attention_heads num_key_value_heads", *_POSITIVE)
        check("max_position_embeddings rms_norm_eps rope_theta attention_block scan_unroll", *_POSITIVE)
        heads, window, scale = self.num_attention_heads, self.sliding_window, self.yarn_attention_factor
        if self.head_dim is None:
            check(
                "hidden_size", self.hidden_size % heads == 0,
                f"must be divisible by model.num_attention_heads {heads}; change one, or set model.head_dim",
            )  # fmt: skip
            object.__setattr__(self, "head_dim", self.hidden_size // heads)
        check("head_dim", self.head_dim > 0 and self.head_dim % 2 == 0, "must be positive and even, for RoPE")
        check(
            "num_key_value_heads",
            heads % self.num_key_value_heads == 0,
            f"must divide model.num_attention_heads {heads}",
        )
        check("sliding_window", window is None or 0 < window < 2**31, "must be positive, or none")
        check("yarn_attention_factor", scale is None or 0 < scale <= 100, "must be above 0 and at most 100, or none")
        check("yarn_factor", 1 <= self.yarn_factor <= 65536, "must be 1 to 65536")
        check("rope_theta", 1 < self.rope_theta < 1e30, "must be above 1, and finite")
        check(
            "max_position_embeddings", self.max_position_embeddings * self.yarn_factor < 2**31,
            f"times model.yarn_factor {self.yarn_factor} must be below 2^31",
        )  # fmt: skip
        check("yarn_beta_slow", *_POSITIVE)
        check(
            "yarn_beta_fast", math.inf > self.yarn_beta_fast >= self.yarn_beta_slow,
            f"must be finite and at least model.yarn_beta_slow {self.yarn_beta_slow}",
        )  # fmt: skip
        check("dtype", *_one_of(("float32", "bfloat16")))
        check("attention", *_one_of(ATTENTION))
        check("remat", *_one_of(REMAT))

    @property
    def max_length(self) -> int | None:
        """Tokens that an input may have: the positions of training, stretched; None (any) where a window within them
        keeps every distance one that was trained.
        """
        positions = int(self.max_position_embeddings * self.yarn_factor)
        return None if self.sliding_window is not None and self.sliding_window <= positions else positions


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """How DNA becomes ids."""

    kind: str = "kmer"  # kmer, bpe
    k: int = 6  # bases a k-mer, 1 to 8
    model_file: str | None = None  # a sentencepiece model, for bpe
    convention: str = "v2"  # how a sequence is framed to be embedded: v1 <s> DNA, v2 <s> DNA <s>; or unknown

    def __post_init__(self):
        check = _fields_of("tokenizer", self)
        check("kind", *_one_of(("kmer", "bpe")))
        check("convention", *_one_of(("v1", "v2", "unknown")))
        check("k", 1 <= self.k <= 8, "must be 1 to 8")
        check(
            "model_file", self.kind != "bpe" or self.model_file is not None,
            "tokenizer.kind bpe needs a model: python -m data_pipeline.train_bpe --dataset DIR --output bpe.model",
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Data:
    """The dataset and how it is read."""

    path: str = "datasets/refseq"  # a folder that data_pipeline.build wrote
    build_from: tuple[str, ...] = ()  # annotated genomes to build it from, where it is absent
    storage: str = "bases"  # how to build it: bases, or token_ids (fixed phase and strand; bpe needs it)
    validation_fraction: float = 0.05  # of the regions to build, held out
    context_length: int = 16384  # tokens of input
    random_phase: bool = True  # start every region at a random offset below k bases, another one each epoch
    reverse_complement: bool = False  # read every region on a random strand, another one each epoch
    mask_documents: bool = False  # regions in one window do not see each other
    repeat_weight: float = 1.0  # of a lower-case (soft-masked) base in the training loss; the others weigh 1
    num_workers: int = 0  # processes that read; 0 reads in threads
    prefetch: int = 4  # batches read ahead

    def __post_init__(self):
        check = _fields_of("data", self)
        check("storage", *_one_of(("bases", "token_ids")))
        check("context_length prefetch", *_POSITIVE)
        check("num_workers", *_NOT_NEGATIVE)
        check("validation_fraction", 0 < self.validation_fraction < 1, "must be between 0 and 1")
        check("repeat_weight", 0 <= self.repeat_weight < math.inf, "must be finite and not negative")
        check(
            "repeat_weight", self.repeat_weight == 1 or self.storage == "bases",
            f"needs lower case, which data.storage {self.storage} does not keep; set it to 1, or data.storage to bases",
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is minimised: cross-entropy of tokens, or FNS, the cross-entropy of their bases' marginals."""

    fns_from_step: int | None = None  # FNS behind so many steps of cross-entropy; 0: from the start; none: never
    fns_learning_rate: float | None = None  # the peak rate from there on; none: the same
    z_loss: float = 0.0  # times the squared log of the softmax's sum
    compat: bool = False  # FNS adds the special tokens' mass to A, as the published code does

    def __post_init__(self):
        check = _fields_of("objective", self)
        start, rate = self.fns_from_step, self.fns_learning_rate
        check("fns_from_step", start is None or start >= 0, "must be 0 or more, or none")
        check("fns_learning_rate", rate is None or rate > 0, "must be positive, or none")
        check("z_loss", 0 <= self.z_loss < math.inf, "must be finite and not negative")
        without = "does nothing without objective.fns_from_step; set that, or leave this out"
        check("fns_learning_rate", start is not None or rate is None, without)
        check("compat", start is not None or not self.compat, without)

    def at(self, step: int) -> str:
        """What the step behind `step` others minimises: ce or fns."""
        return "fns" if self.fns_from_step is not None and step >= self.fns_from_step else "ce"


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW with warm-up and a schedule."""

    peak_learning_rate: float = 4e-4
    warmup_steps: int = 2000
    schedule: str = "cosine"  # behind the warm-up: cosine, or wsd (stable, then linear decay)
    decay_fraction: float = 0.2  # of all steps, at the end, in which wsd decays
    final_learning_rate_ratio: float = 0.1  # of the peak rate, reached at the last step
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1  # of matrices only
    clip_norm: float = 1.0  # of the whole gradient
    state_dtype: str = "float32"  # of the two moments as they are kept; bfloat16 rounds them at random
    grad_norm_spike_factor: float = (
        10.0  # a gradient so many times its usual norm is skipped; 0: only one that is not finite
    )
    max_consecutive_skips: int = 20  # skipped steps in a row that stop the run

    def __post_init__(self):
        check = _fields_of("optimizer", self)
        check("schedule", *_one_of(("cosine", "wsd")))
        check("state_dtype", *_one_of(("float32", "bfloat16")))
        check("decay_fraction", 0 < self.decay_fraction <= 1, "must be above 0 and at most 1")
        check("final_learning_rate_ratio", 0 <= self.final_learning_rate_ratio <= 1, "must be 0 to 1")
        check(
            "grad_norm_spike_factor",
            self.grad_norm_spike_factor == 0 or self.grad_norm_spike_factor > 1,
            "must be above 1, or 0",
        )
        check("max_consecutive_skips peak_learning_rate epsilon clip_norm", *_POSITIVE)
        check("warmup_steps weight_decay", *_NOT_NEGATIVE)
        check("beta1 beta2", lambda value: 0 <= value < 1, "must be at least 0 and below 1")


@dataclasses.dataclass(frozen=True)
class Train:
    """The loop."""

    num_steps: int = 185_000
    batch_size: int = 128  # sequences a step, over all devices
    accumulate: int = 1  # parts of a batch, one after the other; the step is that of the whole
    seed: int = 0  # of parameters and data
    log_every_steps: int = 10
    writers: tuple[str, ...] = ()  # beside log.jsonl: tensorboard, wandb
    wandb_project: str = "gener_jax"
    watchdog_minutes: float = 30.0  # without a step, a batch of evaluation or a save: the run is stuck; 0: never
    profile_from: int | None = None  # a step from which `profile_steps` are traced, to profile/ in the run's folder
    profile_steps: int = 3
    compilation_cache: str | None = None  # a folder for compiled programs; none: see `compilation`
    init_from: str | None = None  # a folder whose parameters the run starts from: a run's, or a Hugging Face folder
    check_memory: bool = True  # refuse to start where the estimate is over what a device has
    allow_changes: tuple[str, ...] = ()  # fields that may differ from the run being resumed, e.g. "train.num_steps"

    def __post_init__(self):
        check = _fields_of("train", self)
        check("num_steps batch_size accumulate log_every_steps profile_steps", *_POSITIVE)
        check("writers", set(self.writers) <= {"tensorboard", "wandb"}, "may hold tensorboard and wandb")
        check("watchdog_minutes", 0 <= self.watchdog_minutes < math.inf, "must be finite and not negative")
        check("profile_from", self.profile_from is None or self.profile_from > 0, "must be a step from 1 on, or none")
        check(
            "batch_size", self.batch_size % self.accumulate == 0, f"must be divisible by accumulate {self.accumulate}"
        )
        check("seed", *_SEED)


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices along each axis; −1 takes the rest."""

    data: int = 1
    fsdp: int = -1
    tensor: int = 1
    context: int = 1

    def __post_init__(self):
        check = _fields_of("mesh", self)
        check("data fsdp tensor context", lambda size: size > 0 or size == -1, "must be positive, or -1 for the rest")
        sizes = dataclasses.astuple(self)
        _require(sizes.count(-1) < 2, "mesh", sizes, "only one axis may be -1, which takes the rest")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """When to save, and what to keep beside the best."""

    every_steps: int = 1000
    keep: int = 2  # newest ones

    def __post_init__(self):
        check = _fields_of("checkpoint", self)
        check("every_steps", *_POSITIVE)
        check("keep", self.keep >= 2, "must be at least 2, since the newest may be damaged")


@dataclasses.dataclass(frozen=True)
class Eval:
    """Held-out evaluation."""

    split: str = "validation"
    every_steps: int = 1000
    batch_size: int = 8  # windows of the context
    max_regions: int | None = None  # evaluate the first so many in a keyed order; None: all
    recovery_genes: int = 0  # held-out genes whose next 30 bases are written greedily at each look
    baselines: bool = True  # Markov models of order 0 and 5 beside the final evaluation

    def __post_init__(self):
        check = _fields_of("eval", self)
        check("split", *_one_of(("train", "validation", "test")))
        check("every_steps batch_size", *_POSITIVE)
        check("recovery_genes", *_NOT_NEGATIVE)
        check("max_regions", self.max_regions is None or self.max_regions > 0, "must be positive, or none")


@dataclasses.dataclass(frozen=True)
class Sample:
    """What `sample` draws, and what `train` prints at the end."""

    prompts: tuple[str, ...] = ("",)
    num_bases: int = 600
    num_samples: int = 1  # a prompt
    temperature: float = 1.0  # 0: greedy
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    seed: int = 0
    stop_codons: tuple[str, ...] = ("TAA", "TAG", "TGA")  # of the genetic code, for the statistics of reading frames

    def __post_init__(self):
        check = _fields_of("sample", self)
        check("prompts", len(self.prompts) > 0, "must hold at least one prompt")
        codons = all(len(codon) == 3 and not set(codon) - set("ACGT") for codon in self.stop_codons)
        check("stop_codons", codons, "must hold codons: three of A, C, G and T each")
        check("num_bases temperature top_k", *_NOT_NEGATIVE)
        check("num_samples", *_POSITIVE)
        check("top_p", 0 < self.top_p <= 1, "must be above 0 and at most 1")
        check("seed", *_SEED)


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole run."""

    name: str = "base"
    model: Model = dataclasses.field(default_factory=Model)
    tokenizer: Tokenizer = dataclasses.field(default_factory=Tokenizer)
    data: Data = dataclasses.field(default_factory=Data)
    objective: Objective = dataclasses.field(default_factory=Objective)
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    train: Train = dataclasses.field(default_factory=Train)
    mesh: Mesh = dataclasses.field(default_factory=Mesh)
    checkpoint: Checkpoint = dataclasses.field(default_factory=Checkpoint)
    eval: Eval = dataclasses.field(default_factory=Eval)
    sample: Sample = dataclasses.field(default_factory=Sample)

    def __post_init__(self):
        longest, m = self.model.max_length, self.model
        _require(
            longest is None or self.data.context_length <= longest, "data.context_length", self.data.context_length,
            f"exceeds model.max_position_embeddings {m.max_position_embeddings}"
            + (f" times model.yarn_factor {m.yarn_factor}" if m.yarn_factor > 1 else ""),
        )  # fmt: skip
        _require(
            self.optimizer.warmup_steps <= self.train.num_steps, "optimizer.warmup_steps", self.optimizer.warmup_steps,
            f"exceeds train.num_steps {self.train.num_steps}",
        )  # fmt: skip
        _require(
            self.tokenizer.kind != "bpe" or self.data.storage == "token_ids", "data.storage", self.data.storage,
            "tokenizer.kind bpe needs a dataset of tokens: data.storage=token_ids "
            "(python -m data_pipeline.build --storage token_ids --tokenizer bpe --model_file FILE)",
        )  # fmt: skip
        _require(
            self.objective.fns_from_step is None or self.tokenizer.kind == "kmer", "objective.fns_from_step",
            self.objective.fns_from_step, "FNS needs k-mers, and tokenizer.kind is bpe; set it to none",
        )  # fmt: skip
        unknown = [name for name in self.train.allow_changes if name not in dict(flatten(self))]
        _require(not unknown, "train.allow_changes", self.train.allow_changes, f"no such field: {', '.join(unknown)}")


def _field_types(cls) -> dict[str, tuple[type, bool]]:
    """Field name → (type, whether None is a value)."""
    types_ = {}
    for name, hint in typing.get_type_hints(cls).items():
        if isinstance(hint, types.UnionType):
            types_[name] = (next(t for t in typing.get_args(hint) if t is not type(None)), True)
        else:
            types_[name] = (typing.get_origin(hint) or hint, False)
    return types_


def to_config_dict(config) -> ConfigDict:
    """A dataclass as a locked ConfigDict; fields that may be None keep their type as placeholders."""
    result = ConfigDict()
    for name, (type_, _) in _field_types(type(config)).items():
        value = getattr(config, name)
        if dataclasses.is_dataclass(type_):
            value = to_config_dict(value)
        elif value is None:
            value = config_dict.placeholder(type_)
        result[name] = value
    return result.lock()


def base() -> ConfigDict:
    """The published recipe of the 1.2b model, to be changed by an experiment file."""
    values = to_config_dict(Config())
    with values.unlocked():  # worked out again from the sizes that an experiment sets
        values.model.head_dim = config_dict.placeholder(int)
    return values


def _build(cls, values: Mapping, path: str):
    fields = _field_types(cls)
    for name in values:
        _require(name in fields, f"{path}{name}", values[name], "there is no such field")
    made = {}
    for name, value in values.items():
        type_, optional = fields[name]
        if dataclasses.is_dataclass(type_):
            _require(isinstance(value, Mapping), f"{path}{name}", value, "must be a section with fields")
            made[name] = _build(type_, value, f"{path}{name}.")
            continue
        if type_ is tuple and isinstance(value, list | tuple):
            value = tuple(value)
        if type_ is float and type(value) is int:
            value = float(value)
        right = (value is None and optional) or type(value) is type_
        _require(right, f"{path}{name}", value, f"must be of type {type_.__name__}")
        if type_ is tuple:
            _require(all(type(x) is str for x in value), f"{path}{name}", value, "its items must be text")
        made[name] = value
    return cls(**made)


def resolve(values: ConfigDict | Mapping) -> Config:
    """The checked, frozen form of a ConfigDict (or of the mapping that a run's config.json holds).

    Raises:
      ConfigError: one line, naming the field.
    """
    return _build(Config, values.to_dict() if isinstance(values, ConfigDict) else values, "")


def with_model(config: Config, **fields) -> Config:
    """The configuration with other fields of its model; a context that they make too long is shortened.

    Raises:
      ConfigError: one line, naming the field.
    """
    model = _build(Model, {**dataclasses.asdict(config.model), **fields}, "model.")
    context = (
        config.data.context_length if model.max_length is None else min(config.data.context_length, model.max_length)
    )
    return dataclasses.replace(config, model=model, data=dataclasses.replace(config.data, context_length=context))


def flatten(config, path: str = "") -> Iterator[tuple[str, object]]:
    """(dotted name, value) of every field."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from flatten(value, f"{path}{field.name}.")
        else:
            yield path + field.name, value


def parse_value(name: str, text: str):
    """The value of `--config.NAME=TEXT` by the field's type; "none" where None is allowed, commas between list items.

    Raises:
      ConfigError: if there is no such field, or the text is not of its type.
    """
    cls, field = Config, f"config.{name}"
    *sections, last = name.split(".")
    for section in sections:
        type_, _ = _field_types(cls).get(section, (None, False))
        _require(dataclasses.is_dataclass(type_), field, text, "there is no such field")
        cls = type_
    fields = _field_types(cls)
    known = last in fields and not dataclasses.is_dataclass(fields[last][0])
    _require(known, field, text, f"there is no such field; {'.'.join(['config', *sections])} has {', '.join(fields)}")
    type_, optional = fields[last]
    if optional and text.lower() == "none":
        return None
    if type_ is tuple:
        return tuple(part for part in text.split(",") if part)
    if type_ is bool:
        _require(text.lower() in ("true", "false"), field, text, "must be true or false")
        return text.lower() == "true"
    try:
        return type_(text.replace("_", "") if type_ is int else text)
    except ValueError:
        raise ConfigError(f"must be of type {type_.__name__}", field, text) from None


def dumps(config: Config) -> str:
    """The resolved configuration as JSON, one field a line."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"
