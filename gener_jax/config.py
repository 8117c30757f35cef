"""Every knob of a run, declared once: frozen dataclasses that check themselves, and the ConfigDict made from them.

An experiment file starts from `base()`, a locked `ml_collections.ConfigDict` with the published recipe, and changes
what differs. `resolve` turns it into a `Config`. Reading files and command lines is `gener_jax.command`'s part.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Iterator, Mapping

from ml_collections import ConfigDict, config_dict


class ConfigError(ValueError):
    """A field that does not exist, has the wrong type, or contradicts another: one line for the user."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


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
        for name in (
            "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings",
            "rms_norm_eps", "rope_theta",
        ):  # fmt: skip
            _require(getattr(self, name) > 0, f"model.{name} is {getattr(self, name)}: it has to be positive")
        if self.head_dim is None:
            _require(
                self.hidden_size % self.num_attention_heads == 0,
                f"model.hidden_size {self.hidden_size} is not divisible by model.num_attention_heads "
                f"{self.num_attention_heads}: change one, or set model.head_dim",
            )
            object.__setattr__(self, "head_dim", self.hidden_size // self.num_attention_heads)
        _require(
            self.head_dim > 0 and self.head_dim % 2 == 0, f"model.head_dim is {self.head_dim}: RoPE needs an even one"
        )
        _require(
            self.num_key_value_heads > 0 and self.num_attention_heads % self.num_key_value_heads == 0,
            f"model.num_attention_heads {self.num_attention_heads} is not divisible by "
            f"model.num_key_value_heads {self.num_key_value_heads}",
        )
        window, scale = self.sliding_window, self.yarn_attention_factor
        _require(
            window is None or 0 < window < 2**31, f"model.sliding_window is {window}: it has to be positive, or none"
        )
        _require(
            scale is None or 0 < scale <= 100,
            f"model.yarn_attention_factor is {scale}: it has to be above 0 and at most 100, or none",
        )
        _require(1 <= self.yarn_factor <= 65536, f"model.yarn_factor is {self.yarn_factor}: it has to be 1 to 65536")
        _require(1 < self.rope_theta < 1e30, f"model.rope_theta is {self.rope_theta}: it has to be above 1, and finite")
        _require(
            self.max_position_embeddings * self.yarn_factor < 2**31,
            f"model.max_position_embeddings {self.max_position_embeddings} times model.yarn_factor {self.yarn_factor} "
            "is over 2^31",
        )
        _require(
            math.inf > self.yarn_beta_fast >= self.yarn_beta_slow > 0,
            f"model.yarn_beta_fast is {self.yarn_beta_fast} and model.yarn_beta_slow {self.yarn_beta_slow}: "
            "both have to be positive, and fast no less than slow",
        )
        _require(self.attention_block > 0, f"model.attention_block is {self.attention_block}: it has to be positive")
        _require(self.scan_unroll > 0, f"model.scan_unroll is {self.scan_unroll}: it has to be positive")
        _choice("model.dtype", self.dtype, ("float32", "bfloat16"))
        _choice("model.attention", self.attention, ATTENTION)
        _choice("model.remat", self.remat, REMAT)

    @property
    def longest(self) -> int | None:
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
        _choice("tokenizer.kind", self.kind, ("kmer", "bpe"))
        _choice("tokenizer.convention", self.convention, ("v1", "v2", "unknown"))
        _require(1 <= self.k <= 8, f"tokenizer.k is {self.k}: it has to be 1 to 8")
        _require(
            self.kind != "bpe" or self.model_file is not None,
            "tokenizer.kind is bpe and tokenizer.model_file is not set: "
            "train one with python -m data_pipeline.train_bpe --dataset DIR --output bpe.model",
        )


@dataclasses.dataclass(frozen=True)
class Data:
    """The dataset and how it is read."""

    path: str = "datasets/refseq"  # a folder that data_pipeline.build wrote
    build_from: tuple[str, ...] = ()  # annotated genomes to build it from, where it is absent
    records: str = "bases"  # what to build: bases, or tokens (fixed phase and strand; what bpe needs)
    validation_share: float = 0.05  # of the regions to build, held out
    context_length: int = 16384  # tokens of input
    random_phase: bool = True  # start every region at a random offset below k bases, another one each epoch
    reverse_complement: bool = False  # read every region on a random strand, another one each epoch
    mask_documents: bool = False  # regions in one window do not see each other
    repeat_weight: float = 1.0  # of a lower-case (soft-masked) base in the training loss; the others weigh 1
    num_workers: int = 0  # processes that read; 0 reads in threads
    prefetch: int = 4  # batches read ahead

    def __post_init__(self):
        _choice("data.records", self.records, ("bases", "tokens"))
        _require(self.context_length > 0, f"data.context_length is {self.context_length}: it has to be positive")
        _require(0 < self.validation_share < 1, f"data.validation_share is {self.validation_share}: between 0 and 1")
        weight = self.repeat_weight
        _require(0 <= weight < math.inf, f"data.repeat_weight is {weight}: it has to be finite and not negative")
        _require(
            weight == 1 or self.records == "bases",
            f"data.repeat_weight is {weight} and data.records is tokens, which keep no lower case: "
            "set data.repeat_weight to 1, or data.records to bases",
        )
        _require(self.num_workers >= 0, f"data.num_workers is {self.num_workers}: it cannot be negative")
        _require(self.prefetch > 0, f"data.prefetch is {self.prefetch}: it has to be positive")


@dataclasses.dataclass(frozen=True)
class Objective:
    """What is minimised: cross-entropy of tokens, or FNS, the cross-entropy of their bases' marginals."""

    fns_from_step: int | None = None  # FNS behind so many steps of cross-entropy; 0: from the start; none: never
    fns_learning_rate: float | None = None  # the peak rate from there on; none: the same
    z_loss: float = 0.0  # times the squared log of the softmax's sum
    compat: bool = False  # FNS adds the special tokens' mass to A, as the published code does

    def __post_init__(self):
        start, rate = self.fns_from_step, self.fns_learning_rate
        _require(start is None or start >= 0, f"objective.fns_from_step is {start}: it has to be 0 or more, or none")
        _require(rate is None or rate > 0, f"objective.fns_learning_rate is {rate}: it has to be positive, or none")
        _require(0 <= self.z_loss < math.inf, f"objective.z_loss is {self.z_loss}: it has to be 0 or more")
        _require(
            start is not None or (rate is None and not self.compat),
            "objective.fns_learning_rate and objective.compat do nothing without objective.fns_from_step",
        )

    def at(self, step: int) -> str:
        """What the step behind `step` others minimises: ce or fns."""
        return "fns" if self.fns_from_step is not None and step >= self.fns_from_step else "ce"


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW with warm-up and a schedule."""

    peak_learning_rate: float = 4e-4
    warmup_steps: int = 2000
    schedule: str = "cosine"  # behind the warm-up: cosine, or wsd (stable, then linear decay)
    decay_share: float = 0.2  # of all steps, at the end, in which wsd decays
    final_share: float = 0.1  # of the peak rate, reached at the last step
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1  # of matrices only
    clip_norm: float = 1.0  # of the whole gradient
    state_dtype: str = "float32"  # of the two moments as they are kept; bfloat16 rounds them at random
    spike_factor: float = 10.0  # a gradient so many times its usual norm is skipped; 0: only one that is not finite
    max_skipped_in_row: int = 20  # skipped steps in a row that stop the run

    def __post_init__(self):
        _choice("optimizer.schedule", self.schedule, ("cosine", "wsd"))
        _choice("optimizer.state_dtype", self.state_dtype, ("float32", "bfloat16"))
        _require(0 < self.decay_share <= 1, f"optimizer.decay_share is {self.decay_share}: above 0, at most 1")
        factor = self.spike_factor
        _require(factor == 0 or factor > 1, f"optimizer.spike_factor is {factor}: it has to be over 1, or 0")
        _require(
            self.max_skipped_in_row > 0,
            f"optimizer.max_skipped_in_row is {self.max_skipped_in_row}: it has to be positive",
        )
        _require(self.peak_learning_rate > 0, f"optimizer.peak_learning_rate is {self.peak_learning_rate}: positive")
        for name in ("epsilon", "clip_norm"):
            _require(getattr(self, name) > 0, f"optimizer.{name} is {getattr(self, name)}: it has to be positive")
        for name in ("warmup_steps", "weight_decay"):
            _require(getattr(self, name) >= 0, f"optimizer.{name} is {getattr(self, name)}: it cannot be negative")
        for name in ("beta1", "beta2"):
            _require(0 <= getattr(self, name) < 1, f"optimizer.{name} is {getattr(self, name)}: from 0 to below 1")
        _require(0 <= self.final_share <= 1, f"optimizer.final_share is {self.final_share}: from 0 to 1")


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
        for name in self.writers:
            _choice("train.writers", name, ("tensorboard", "wandb"))
        minutes, start = self.watchdog_minutes, self.profile_from
        _require(0 <= minutes < math.inf, f"train.watchdog_minutes is {minutes}: it has to be 0 or more")
        _require(start is None or start > 0, f"train.profile_from is {start}: a step from 1 on, or none")
        for name in ("num_steps", "batch_size", "accumulate", "log_every_steps", "profile_steps"):
            _require(getattr(self, name) > 0, f"train.{name} is {getattr(self, name)}: it has to be positive")
        _require(
            self.batch_size % self.accumulate == 0,
            f"train.batch_size {self.batch_size} is not divisible by train.accumulate {self.accumulate}",
        )
        _require(0 <= self.seed < 2**32, f"train.seed is {self.seed}: it has to be below 2^32 and not negative")


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices along each axis; −1 takes the rest."""

    data: int = 1
    fsdp: int = -1
    tensor: int = 1
    context: int = 1

    def __post_init__(self):
        sizes = dataclasses.asdict(self)
        for name, size in sizes.items():
            _require(size > 0 or size == -1, f"mesh.{name} is {size}: it has to be positive, or -1 for the rest")
        _require(list(sizes.values()).count(-1) < 2, "mesh has more than one -1: one takes the rest")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """When to save, and what to keep beside the best."""

    every_steps: int = 1000
    keep: int = 2  # newest ones

    def __post_init__(self):
        _require(self.every_steps > 0, f"checkpoint.every_steps is {self.every_steps}: it has to be positive")
        _require(self.keep >= 2, f"checkpoint.keep is {self.keep}: keep at least 2, the newest may be damaged")


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
        _choice("eval.split", self.split, ("train", "validation", "test"))
        for name in ("every_steps", "batch_size"):
            _require(getattr(self, name) > 0, f"eval.{name} is {getattr(self, name)}: it has to be positive")
        _require(self.recovery_genes >= 0, f"eval.recovery_genes is {self.recovery_genes}: it cannot be negative")
        regions = self.max_regions
        _require(regions is None or regions > 0, f"eval.max_regions is {regions}: it has to be positive, or none")


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
        _require(len(self.prompts) > 0, "sample.prompts is empty: give one at least")
        for codon in self.stop_codons:
            _require(
                len(codon) == 3 and not set(codon) - set("ACGT"),
                f"sample.stop_codons has {codon!r}: a codon is three of A, C, G and T",
            )
        _require(self.num_bases >= 0, f"sample.num_bases is {self.num_bases}: it cannot be negative")
        _require(0 <= self.seed < 2**32, f"sample.seed is {self.seed}: it has to be below 2^32 and not negative")
        _require(self.num_samples > 0, f"sample.num_samples is {self.num_samples}: it has to be positive")
        _require(self.temperature >= 0, f"sample.temperature is {self.temperature}: it cannot be negative")
        _require(self.top_k >= 0, f"sample.top_k is {self.top_k}: it cannot be negative")
        _require(0 < self.top_p <= 1, f"sample.top_p is {self.top_p}: above 0, at most 1")


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
        _require(
            self.model.longest is None or self.data.context_length <= self.model.longest,
            f"data.context_length {self.data.context_length} is over model.max_position_embeddings "
            f"{self.model.max_position_embeddings}"
            + (f" times model.yarn_factor {self.model.yarn_factor}" if self.model.yarn_factor > 1 else ""),
        )
        _require(
            self.optimizer.warmup_steps <= self.train.num_steps,
            f"optimizer.warmup_steps {self.optimizer.warmup_steps} is over train.num_steps {self.train.num_steps}",
        )
        _require(
            self.tokenizer.kind != "bpe" or self.data.records == "tokens",
            "tokenizer.kind is bpe and data.records is bases: BPE needs a dataset of tokens "
            "(data.records=tokens; python -m data_pipeline.build --records tokens --tokenizer bpe --model_file FILE)",
        )
        _require(
            self.objective.fns_from_step is None or self.tokenizer.kind == "kmer",
            "objective.fns_from_step is set and tokenizer.kind is bpe: FNS is of k-mers' bases; set it to none",
        )
        for name in self.train.allow_changes:
            _require(name in dict(flatten(self)), f"train.allow_changes names {name!r}, which is not a field")


def _choice(name: str, value, choices) -> None:
    _require(value in choices, f"{name} is {value!r}: one of {', '.join(choices)}")


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
        _require(name in fields, f"{path}{name} is not a field of the configuration")
    made = {}
    for name, value in values.items():
        type_, optional = fields[name]
        if dataclasses.is_dataclass(type_):
            _require(isinstance(value, Mapping), f"{path}{name} is {value!r}: it is a section, with fields of its own")
            made[name] = _build(type_, value, f"{path}{name}.")
            continue
        if type_ is tuple and isinstance(value, list | tuple):
            value = tuple(value)
        if type_ is float and type(value) is int:
            value = float(value)
        right = (value is None and optional) or type(value) is type_
        _require(right, f"{path}{name} is {value!r}: it has to be of type {type_.__name__}")
        if type_ is tuple:
            _require(all(type(x) is str for x in value), f"{path}{name} is {value!r}: its items have to be text")
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
    context = config.data.context_length if model.longest is None else min(config.data.context_length, model.longest)
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
    cls, fields = Config, []
    *sections, last = name.split(".")
    for section in sections:
        type_, _ = _field_types(cls).get(section, (None, False))
        _require(dataclasses.is_dataclass(type_), f"config.{name} is not a field of the configuration")
        cls = type_
    fields = _field_types(cls)
    _require(
        last in fields and not dataclasses.is_dataclass(fields[last][0]),
        f"config.{name} is not a field of the configuration; "
        + (f"config.{'.'.join(sections)}" if sections else "it")
        + f" has {', '.join(fields)}",
    )
    type_, optional = fields[last]
    if optional and text.lower() == "none":
        return None
    if type_ is tuple:
        return tuple(part for part in text.split(",") if part)
    if type_ is bool:
        _choice(f"config.{name}", text.lower(), ("true", "false"))
        return text.lower() == "true"
    try:
        return type_(text.replace("_", "") if type_ is int else text)
    except ValueError:
        raise ConfigError(f"config.{name} is {text!r}: it has to be of type {type_.__name__}") from None


def dumps(config: Config) -> str:
    """The resolved configuration as JSON, one field a line."""
    return json.dumps(dataclasses.asdict(config), indent=2) + "\n"
