"""Converts a model between a run's folder and a Hugging Face folder.

    gener-jax convert --checkpoint runs/mine --output hf/mine --format hf
    gener-jax convert --checkpoint hf/mine --verify

`transformers` opens a Hugging Face folder without remote code, by AutoTokenizer and LlamaForCausalLM, and generates DNA
from it. Its README.md is a model card of what is known of the training. A run's folder made from a published model
holds its parameters alone; --config.train.init_from=FOLDER starts training from it. A fine-tuned model keeps its head
(head.json, head.safetensors). Of a LoRA run, --merge writes the whole model, --format peft the adapters as PEFT does.
--verify compares layer by layer, and 16 greedy ids, with `transformers` (pip install -e '.[parity]').
"""

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_pipeline import cli
from gener_jax.cli import command
from gener_jax.config import Head, ModelSpec, with_model
from gener_jax.runtime.errors import CheckpointError, ConfigError
from gener_jax.runtime.progress import log
from gener_jax.storage.files import refuse_existing, whole_folder

if TYPE_CHECKING:
    from gener_jax.inference.lm import LM
    from gener_jax.storage.provenance import Provenance


def write_published(
    folder: Path,
    spec: ModelSpec,
    params,
    dtype: str = "float32",
    known: "Provenance | None" = None,
    head: Head | None = None,
    head_params=None,
) -> None:
    """Writes configuration, safetensors of `dtype`, the tokenizer's files and a model card into an empty folder.

    `known` is what is known of the training, for the card; it is written too. So are the head of a fine-tuned model and
    its parameters; if transformers can compute it, it is also a `score.weight` beside the model's.

    Raises:
      ConfigError: if the tokenizer is not a k-mer tokenizer.
    """
    from gener_jax.storage import heads, provenance
    from gener_jax.storage.huggingface import card, vocabulary, weights
    from gener_jax.storage.huggingface import config as published_config

    if spec.tokenizer.kind != "kmer":
        raise ConfigError("only models over k-mers have a published form", "tokenizer.kind", spec.tokenizer.kind)
    classifier = None
    if head is not None:
        heads.write(folder, head)
        heads.write_params(folder, head_params)
        if heads.is_classifier(head, head_params):
            classifier, params = head, {**params, "score": head_params["kernel"]}
    (folder / "config.json").write_text(published_config.write(spec, dtype, classifier))
    (folder / "generation_config.json").write_text(published_config.write_generation())
    (folder / "README.md").write_text(card.write(spec, dtype, known, head, is_classifier=classifier is not None))
    if known is not None:
        provenance.write(folder, known)
    longest = spec.model.max_length or spec.model.max_position_embeddings
    for name, text in vocabulary.files(spec.tokenizer.make(), longest).items():
        (folder / name).write_text(text)
    weights.write(folder, params, dtype)


def write_adapters(folder: Path, run: Path, lm: "LM") -> None:
    """Writes the adapters of a LoRA run into an empty folder, in PEFT's layout, with what names the base.

    Raises:
      ConfigError: if the folder is no such run.
    """
    from gener_jax.storage import heads, pretrained, run_folder
    from gener_jax.storage.huggingface import adapters

    if pretrained.is_published(run) or not run_folder.holds_adapters(run):
        raise ConfigError(f"{run} is no run of finetune.method lora", "--format", "peft")
    base = run_folder.base_of(run)["path"]
    layers = pretrained.read_spec(pretrained.find(base)).model.num_hidden_layers
    adapters.write(folder, pretrained.read_adapters(run, lm.mesh, lm.step), base, layers)
    if lm.head_params is not None:
        heads.write_params(folder, lm.head_params)
    if layers == lm.spec.model.num_hidden_layers:  # else the checksum is that of the first layers alone
        shutil.copyfile(run / run_folder.BASE, folder / run_folder.BASE)
    if not pretrained.is_published(Path(base)):
        log(f"{base} is a run's folder: PEFT needs it as --format hf writes it, given to PeftModel.from_pretrained")


def verify(lm: "LM", folder: Path | None) -> dict:
    """Prints our model's outputs next to those of transformers, and returns the object of the last line.

    `folder` holds the model as published; None writes it to a temporary folder first.
    """
    from gener_jax.inference import parity

    ids = parity.probe_ids(lm)
    ours = parity.ours(lm, ids)
    result = {"tokens": ids.size, "dtype": lm.spec.model.dtype, "greedy": ours.greedy}
    print(f"greedy ids, ours          {' '.join(map(str, ours.greedy))}")
    with tempfile.TemporaryDirectory(prefix="gener_jax_verify_") as temporary:
        if folder is None:
            folder = Path(temporary)
            write_published(folder, lm.spec, lm.params)
        theirs = parity.theirs(folder, ids, lm.spec.model)
    print(f"greedy ids, transformers  {' '.join(map(str, theirs.greedy))}")
    print(f"{'':14} largest difference   allowed    of values up to")
    rows = []
    for name, difference, size in parity.differences(ours, theirs):
        allowed = parity.TOLERANCE * max(1, size)
        print(f"{name:14} {difference:18.2e}   {allowed:.2e}   {size:.3g}")
        rows.append((difference / allowed, name, difference, allowed))
    shares = [share for share, *_ in rows]
    _, name, difference, allowed = rows[int(np.argmax(shares))]  # the first NaN, if any is
    equal = bool(np.max(shares) <= 1) and theirs.greedy == ours.greedy
    verdict = "agrees with" if equal else "differs from"
    greedy = "" if theirs.greedy == ours.greedy else "; the greedy ids differ"
    print(f"{verdict} transformers: largest difference {difference:.2e} ({name}), allowed {allowed:.2e}{greedy}")
    return {**result, "equal": equal, "largest_difference": difference, "allowed_difference": allowed}


def main(argv=None) -> None:
    """The command."""
    program = command.Command(__doc__, checkpoint=True, weights=False)
    add = program.parser.add_argument
    add("--output", type=Path, metavar="DIR", help="the folder to write")
    add("--format", choices=("hf", "run", "peft"), help="what to write: a Hugging Face, a run's, or PEFT's folder")
    add("--merge", action="store_true", help="write a model with adapters as one without")
    add("--dtype", choices=("float32", "bfloat16", "float16"), help="of an hf folder's tensors [as they were stored]")
    add("--overwrite", action="store_true", help="replace an output folder that exists")
    add("--verify", action="store_true", help="compare with transformers, on this machine")
    args, config, folder = program.parse(argv)
    if (args.output is None) != (args.format is None) or not (args.output or args.verify):
        raise ConfigError("give --output with --format hf, run or peft, or --verify, or both")
    if args.dtype and args.format != "hf":
        raise ConfigError("goes with --format hf only; a run holds float32", "--dtype", args.dtype)
    if args.output:  # now, not after everything is read
        refuse_existing(args.output, args.overwrite)

    import jax

    from gener_jax.inference import parity
    from gener_jax.inference.lm import from_spec
    from gener_jax.model import decoder
    from gener_jax.storage import heads, pretrained, provenance, run_folder
    from gener_jax.storage.huggingface import weights

    if jax.process_count() > 1:
        raise ConfigError(f"convert runs as one process, not {jax.process_count()}")
    if args.verify:
        parity.require()
    adapted = pretrained.has_adapters(folder)
    if args.merge and (not adapted or args.format not in ("hf", "run")):
        raise ConfigError("is for a model with adapters, and --format hf or run", "--merge")
    if adapted and not args.merge and args.format in ("hf", "run"):
        remedy = "give --merge to write the whole model, or --format peft to write them alone"
        raise ConfigError(f"{folder} has adapters of a base; {remedy}", "--format", args.format)
    # Weights are converted in float32, which represents every other type exactly; --verify compares in it too.
    stored = pretrained.is_published(folder) and not adapted
    dtype = args.dtype or (weights.stored_dtype(folder) if stored else "float32")
    if args.format == "hf" and dtype is None:
        raise ConfigError(f"{folder}: its tensors have several types; give --dtype")
    lm = from_spec(with_model(config.spec, dtype="float32"), folder, step=args.step)
    result = {"checkpoint": str(folder), "step": lm.step}
    if args.verify:  # before the parameters are taken apart
        unchanged = stored and pretrained.read_spec(folder).model == lm.spec.model  # by the command line
        with cli.text(args.json):
            result |= verify(lm, folder if unchanged else None)
    if args.output:
        known = provenance.of_model(folder, lm.step)
        with whole_folder(args.output, overwrite=args.overwrite) as partial:
            if args.format == "hf":
                write_published(partial, lm.spec, lm.params, dtype, known, lm.head, lm.head_params)
            else:
                if args.format == "peft":
                    write_adapters(partial, folder, lm)
                else:
                    added = {} if lm.head_params is None else {"head": lm.head_params}
                    run_folder.write_params(partial, lm.spec, {**decoder.stack(lm.params, donate=True), **added})
                if lm.head is not None:
                    heads.write(partial, lm.head)
                if known is not None:
                    provenance.write(partial, known)
        log(f"{args.output}: written, {sum(f.stat().st_size for f in args.output.rglob('*') if f.is_file()):,} bytes")
        result |= {"output": str(args.output), "format": args.format}
    cli.finish(result, args.json)
    if not result.get("equal", True):
        raise CheckpointError(folder, "ours and transformers differ; the table above says where")


if __name__ == "__main__":
    command.run(main)
