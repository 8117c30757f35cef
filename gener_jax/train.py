"""Trains a model: python -m gener_jax.train --config=experiments/quickstart.py [--workdir=DIR] [--config.x.y=value]

The same command again goes on from the last checkpoint, to the same parameters as if it had never stopped. The last
line on standard output is one JSON object; progress and logs are on standard error, and in DIR/log.jsonl.
"""

import dataclasses
import json
import time
from pathlib import Path

import jax

from data_pipeline.build import build
from data_pipeline.errors import DataError
from data_pipeline.inputs import discover
from data_pipeline.records import RegionSource, read_info
from gener_jax import command, memory, pretrained, run_folder
from gener_jax.config import Config, ConfigError
from gener_jax.data.loader import TokenStream, device_batches, host_batches
from gener_jax.inference.generate import split_prompt
from gener_jax.inference.lm import LM
from gener_jax.model import decoder
from gener_jax.model.sharding import batch_sharding, make_mesh
from gener_jax.progress import Progress, say
from gener_jax.tasks import report
from gener_jax.tasks.held_out import HeldOut
from gener_jax.tokenizer import Tokenizer, for_config
from gener_jax.training import checkpoint
from gener_jax.training.metrics import Clock, Log, fetch, logged
from gener_jax.training.step import abstract_state, init_state, make_train_step

_READING = ("data.", "tokenizer.")  # fields that decide what is read from one dataset


def check(config: Config) -> None:
    """Raises one line for each thing that is missing before anything is made: the data, the memory, a fitting mesh."""
    problems = []
    if not (Path(config.data.path) / "dataset.json").exists() and not config.data.build_from:
        problems.append(
            f"no dataset at {config.data.path} (config.data.path): get annotated genomes, e.g. "
            "https://ftp.ncbi.nlm.nih.gov/refseq/release/DIVISION/*.genomic.gbff.gz, then make it with "
            f"python -m data_pipeline.build --input *.gbff.gz --output {config.data.path}"
        )
    if config.train.check_memory and (line := memory.training_shortage(config)):
        problems.append(line)
    if problems:
        raise DataError("\nerror: ".join(problems))


def prepare_data(config: Config, tokenizer: Tokenizer) -> None:
    """Builds the dataset where it is absent and the configuration says from what; else checks that it is that one.

    Raises:
      DataError: if the dataset that is there was made from other files, or in another way.
    """
    if (Path(config.data.path) / "dataset.json").exists():
        if config.data.build_from:
            check_built(config)
    else:
        say(f"building {config.data.path} from {', '.join(map(str, config.data.build_from))}")
        build(
            config.data.build_from, config.data.path, validation_share=config.data.validation_share,
            tokenizer=tokenizer if config.data.records == "tokens" else None,
        )  # fmt: skip


def initial_params(config: Config, mesh):
    """The parameters of `train.init_from`; what its model has otherwise than this run's is said.

    Raises:
      ConfigError: if it has another tokenizer.
      CheckpointError: if it cannot be read, or has other shapes.
    """
    folder = pretrained.find(config.train.init_from)
    tokenizer, theirs = for_config(pretrained.read_config(folder))
    if tokenizer.digest != for_config(config)[0].digest:
        raise ConfigError(f"train.init_from {folder}: has another vocabulary ({tokenizer.name})")
    before, after = dataclasses.asdict(theirs.model), dataclasses.asdict(config.model)
    differences = [f"model.{name} {before[name]} → {value}" for name, value in after.items() if before[name] != value]
    say(f"starting from the parameters of {folder}" + (f", with {', '.join(differences)}" if differences else ""))
    return pretrained.read_params(folder, config, mesh)[0]


def check_built(config: Config) -> None:
    """Raises DataError if the dataset at `data.path` is not what `data.build_from` and its fields would build."""
    info, wanted = read_info(config.data.path), config.data
    # By name alone: the dataset may have been made elsewhere. A folder's files are not known by its name.
    found = sorted(file["file"] for file in info["inputs"])
    files = sorted(Path(file).name for file in wanted.build_from)
    if any(Path(file).is_dir() for file in wanted.build_from):
        files = sorted(file.name for source in discover(wanted.build_from, annotated=True)[0] for file in source.files)
    differences = [
        f"{name} {was}, not {value}"
        for name, was, value in (
            ("data.records", info["records"], wanted.records),
            ("data.validation_share", info["parameters"]["validation_share"], wanted.validation_share),
            ("data.build_from", found, files),
        )
        if was != value
    ]
    if differences:
        raise DataError(f"{wanted.path}: was built with {'; '.join(differences)}: take another config.data.path")


def train(config: Config, workdir: Path) -> dict:
    """Trains to `train.num_steps`, goes on where a run in `workdir` stopped, and returns the last line's object.

    Raises:
      ConfigError, DataError, CheckpointError: one line each, before anything is trained.
    """
    if jax.process_count() > 1:
        raise ConfigError(f"{jax.process_count()} processes: training over several hosts is not supported yet")
    tokenizer, config = for_config(config)
    with command.refusing("sample.prompts"):  # now, not when the training is done
        for prompt in config.sample.prompts:
            split_prompt(tokenizer, prompt)
    check(config)
    # A run's folder has to be readable from anywhere.
    data = dataclasses.replace(config.data, path=str(Path(config.data.path).absolute()))
    config = dataclasses.replace(config, data=data)
    with command.refusing():
        mesh = make_mesh(config.mesh.data, config.mesh.fsdp, config.mesh.tensor)
    rows_apart = mesh.shape["data"] * mesh.shape["fsdp"]
    if config.train.batch_size % rows_apart:
        raise ConfigError(
            f"train.batch_size {config.train.batch_size} is not divisible by mesh data·fsdp = {rows_apart}: "
            "change one of them"
        )
    with command.refusing():
        target = abstract_state(config, mesh)
    prepare_data(config, tokenizer)
    stream = TokenStream(RegionSource(config.data.path, "train"), tokenizer, config.data, config.train.seed)
    if config.data.repeat_weight != 1 and not stream.has_lower_case():
        say(
            f"warning: no lower case in the bases of {config.data.path} that were looked at: data.repeat_weight "
            f"{config.data.repeat_weight} does nothing to them"
        )
    held_out_source = RegionSource(config.data.path, config.eval.split)
    if len(held_out_source) == 0:
        raise DataError(f"{config.data.path}: the {config.eval.split} split is empty; build with a larger share for it")

    # ------------------------------------------------------------------------------------------ start, or resume
    # 1. The folder's config must be this one.  2. The newest checkpoint gives parameters, optimizer and step.
    # 3. Its loader digest must be this one's.  4. The log is cut back to its step.
    checkpoint.check_folder(workdir, config)
    allowing = config.train.allow_changes
    checkpoints = checkpoint.Checkpoints(workdir, config.checkpoint.keep)
    if (start := checkpoints.latest_step) is not None:
        state, loader_state = checkpoints.restore(start, target)
        for name, digest in (("dataset", stream.source.digest), ("digest", stream.digest)):
            allowed = "data.path" in allowing or (name == "digest" and any(a.startswith(_READING) for a in allowing))
            if loader_state[name] != digest and not allowed:
                raise DataError(
                    f"{config.data.path}: not the data this run began with ({name} {digest[:12]}, was "
                    f"{loader_state[name][:12]}): take another --workdir, or allow data.path by train.allow_changes"
                )
        say(f"resuming {workdir} at step {start}")
    else:
        start, state = 0, init_state(config, mesh)
        if config.train.init_from is not None:
            state = dataclasses.replace(state, params=None)  # those of the seed go before others come
            state = dataclasses.replace(state, params=initial_params(config, mesh))
    run_folder.describe(workdir, config)
    log = Log(workdir / "log.jsonl", start)
    num_steps, batch_size, length = config.train.num_steps, config.train.batch_size, config.data.context_length
    tokens_a_step = batch_size * length
    books = stream.accounting(0)
    say(
        f"{config.name}: {decoder.num_parameters(config.model):,} parameters ({config.model.num_hidden_layers} layers "
        f"of {config.model.hidden_size}), {config.model.dtype}, mesh {dict(mesh.shape)} of "
        f"{jax.devices()[0].device_kind}\n"
        f"data: {len(stream.source):,} regions, {books['region_bases']:,} bases, {books['tokens']:,} tokens an epoch "
        f"({tokenizer.name}), {100 * books['kept'] / books['region_bases']:.1f} % of bases kept; held out: "
        f"{len(held_out_source):,} regions, {int(held_out_source.index['length'].sum()):,} bases\n"
        f"{num_steps} steps of {batch_size} × {length} = {tokens_a_step:,} tokens, "
        f"{num_steps * tokens_a_step / max(books['tokens'], 1):.1f} epochs"
    )

    # ------------------------------------------------------------------------------------------------- the loop
    train_step = make_train_step(config, mesh, tokenizer.token_bases)
    evaluate = HeldOut(config, held_out_source, tokenizer, mesh)
    processes = jax.process_index(), jax.process_count()
    host = host_batches(stream, batch_size, start, num_steps - start, host=processes[0], num_hosts=processes[1])
    batches = device_batches(host, batch_sharding(mesh))
    progress = Progress(num_steps, start, config.train.log_every_steps)
    clock, last, pending = Clock(), logged(workdir / "log.jsonl", start), None
    compiled_at = None  # seconds and step behind the first step: compilation is not speed

    def read(step, metrics):
        """Metrics of a step, once the next one is on its way to the device."""
        nonlocal compiled_at, last
        values = {name: float(value) for name, value in fetch(metrics).items()}
        if compiled_at is None:
            compiled_at = clock.seconds, step
        else:
            values["tokens_per_s"] = (step - compiled_at[1]) * tokens_a_step / (clock.seconds - compiled_at[0])
            bases_per_token = books["kept"] / books["tokens"] if books["tokens"] else 0.0
            values["bases_per_s"] = values["tokens_per_s"] * bases_per_token
        last = values
        if step % config.train.log_every_steps == 0 or step == num_steps:
            log.write(step=step, **values)
        speed = values.get("tokens_per_s")
        left = (num_steps - step) * tokens_a_step / speed if speed else float("nan")
        text = f"loss {values['loss']:.4f}  bits/base {values['bits_per_base']:.4f}"
        progress.update(step, f"{text}  {speed:,.0f} tokens/s" if speed else text, left)

    try:
        with jax.set_mesh(mesh), jax.transfer_guard("disallow"):
            for step, batch in enumerate(batches, start + 1):
                state, metrics = train_step(state, batch)
                if pending is not None:
                    read(*pending)
                pending = (step, metrics)
                save = step % config.checkpoint.every_steps == 0 or step == num_steps
                if save or step % config.eval.every_steps == 0:  # a checkpoint is always looked at: one is the best
                    read(*pending)
                    pending = None
                    with clock.paused():
                        held_out = evaluate(state.params)
                        looked_at = ("loss", "bits_per_base", "without_near_copies")
                        log.write(step=step, held_out={k: held_out[k] for k in looked_at if k in held_out})
                        say(f"step {step}: held-out bits/base {held_out['bits_per_base']:.4f}")
                        if save:
                            loader = {
                                "step": step,
                                "seed": config.train.seed,
                                "digest": stream.digest,
                                "dataset": stream.source.digest,
                            }
                            checkpoints.save(step, state, loader, config, held_out["bits_per_base"])
    except KeyboardInterrupt:
        checkpoints.close()  # one may be half-written
        raise KeyboardInterrupt(f"behind step {checkpoints.latest_step or 0}; the same command goes on there") from None
    progress.close()
    with jax.transfer_guard("allow"):
        checkpoints.close()
        log.close()
        params, state = state.params, None  # the optimizer's state makes room for the samples' copy of the parameters
        return finish(config, workdir, params, tokenizer, mesh, {"step": num_steps, **last})


def finish(config: Config, workdir: Path, params, tokenizer: Tokenizer, mesh, last: dict) -> dict:
    """The final evaluation, samples and what to try next, on standard output; returns the last line's object."""
    result = report.evaluate(config, params, tokenizer, mesh)
    print("\n" + report.as_text(config, result))
    frames = report.show_samples(config, LM(config, params, tokenizer, mesh))
    print(
        "Try next\n"
        f"  python -m gener_jax.sample --checkpoint {workdir} --prompt ATG --num_bases 600 --temperature 0.8\n"
        f"  python -m gener_jax.evaluate --checkpoint {workdir} --step best\n"
        f"  python -m gener_jax.train --config=experiments/quickstart.py --config.data.build_from=YOUR.gbff.gz "
        "--config.data.path=datasets/yours --workdir=runs/yours"
    )
    keep = (
        "loss", "bits_per_base", "perplexity", "without_near_copies", "bits_by_codon_position", "by_case", "markov_0",
        "markov_5",
    )  # fmt: skip
    return {
        **{name: result[name] for name in keep if name in result},
        "train_loss": last.get("loss"),
        "train_bits_per_base": last.get("bits_per_base"),
        "step": last["step"],
        "tokens_per_s": last.get("tokens_per_s"),
        "bases_per_s": last.get("bases_per_s"),
        "open_frame_codons": frames,
        "peak_memory_gib": memory.peak(),
        "workdir": str(workdir),
    }


def main(argv=None) -> None:
    """The command."""
    _, config, workdir = command.Command(__doc__, checkpoint=False).parse(argv)
    began = time.perf_counter()
    result = train(config, workdir)
    print(json.dumps({**result, "seconds": round(time.perf_counter() - began, 1)}))


if __name__ == "__main__":
    command.run(main)
