"""Records what the system computes, so that the results before and after a refactoring can be compared.

    python -m tests.baseline record before.json
    python -m tests.baseline compare before.json after.json

`record` writes the programs that training, evaluation and generation lower to (sha256, without locations and the names
of functions and results, so that a rename or a moved file changes nothing), the arrays of 100 batches, the parameters
of three seeds, the regions of two genomes, an export, 100 losses, logits, scores and generated sequences. `compare`
lists the differences and exits with status 1 if there are any: programs, arrays, parameters, regions and exports must
be equal; relative tolerances are 1e-6 for losses up to step 5 and 1e-4 up to step 100, 1e-5 for logits and scores.

The larger genome is in the folder of the tests' data (GENER_JAX_TEST_DATA); without it, its regions are skipped with a
warning. `record` takes two to three minutes of CPU time. Both files should come from the same machine and version of
jax; otherwise `compare` prints a note.
"""

# ruff: noqa: E402 (jax is configured before anything asks it for devices)

import argparse
import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import platform
import re
import sys
import tempfile
from pathlib import Path

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_enable_compilation_cache", False)
jax.config.update("jax_include_debug_info_in_dumps", False)

import numpy as np

# All parts of the system that are used here.
import gener_jax
from data_pipeline.dataset import builder, inputs
from data_pipeline.dataset.reader import RegionSource
from data_pipeline.regions import extraction, schemes
from gener_jax import convert
from gener_jax.assets import EXAMPLE_GENOME
from gener_jax.cli import command
from gener_jax.config import override
from gener_jax.data.loader import TokenStream, to_devices
from gener_jax.model.sharding import batch_sharding, make_mesh
from gener_jax.tasks.held_out import HeldOut
from gener_jax.training import objectives
from gener_jax.training.step import abstract_state, init_state, make_train_step
from tests.data import DATA

ROOT = Path(__file__).parents[1]
SECOND_GENOME = DATA / "genomes" / "eukaryote" / "yeast_S288C_chrVII_NC_001139.9.gb.gz"
SCHEMES = {
    "gene": schemes.Scheme(regulatory=True, flank=50),
    "whole": schemes.Scheme("whole", max_length=30_000, cut_n=10),
    "mrna": schemes.Scheme("mrna"),
    "cds": schemes.Scheme("cds"),
}
STEPS, SEEDS = 100, (0, 1, 2)
MESHES = {"1 device": ((1, 1, 1, 1), 1), "2 x 2 x 2": ((1, 2, 2, 2), 8)}  # data, fsdp, tensor, context
LEAST_LINES = 100  # lines; shorter programs are single operations between the large ones


def configuration(dataset: Path, **changes: str):
    """The quickstart's configuration and its tokenizer."""
    values = command.load_experiment(str(ROOT / "experiments" / "quickstart.py"))
    fields = {"data.path": str(dataset), **{name.replace("__", "."): text for name, text in changes.items()}}
    config = override(values, fields)
    return config, config.tokenizer.make()


# Digests.


def sha256(data: bytes | str) -> str:
    """The sha256 digest in hexadecimal."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def of_arrays(tree) -> str:
    """The digest of the types, shapes and bytes of a tree's arrays, without their names."""
    found = [
        sha256(f"{x.dtype}{x.shape}".encode() + np.ascontiguousarray(x).tobytes())
        for x in map(np.asarray, jax.tree.leaves(tree))
    ]
    return sha256("".join(sorted(found)))


def plain(value) -> str:
    """A value of tuples, arrays and plain values as text, without the names of classes and fields."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}{sha256(np.ascontiguousarray(value).tobytes())}"
    if isinstance(value, tuple):
        return "(" + ",".join(map(plain, value)) + ")"
    return repr(value)


def normalised(text: str) -> str:
    """A lowered program without result names, and with functions named by their order."""
    text = re.sub(r'jax\.result_info = "(?:[^"\\]|\\.)*",? ?', "", text).replace(" {}", "")
    symbol = r'@(?:[\w.$\-]+|"(?:[^"\\]|\\.)*")'
    defined = re.findall(rf"(?:module|func\.func (?:public|private)) ({symbol})", text)
    names = {name: f"@f{i}" for i, name in enumerate(dict.fromkeys(defined))}
    return re.sub(symbol, lambda m: names.get(m[0], m[0]), text)  # but not the names of meshes and custom calls


def of_program(text: str) -> dict:
    """The digests of a program and of its sorted lines (renaming a dictionary key may change only their order)."""
    text = normalised(text)
    lines = sorted(re.sub(r"%[\w#:.\-]+|@f\d+", "%", line).strip() for line in text.splitlines())
    return {"text": sha256(text), "lines in any order": sha256("\n".join(lines)), "number of lines": len(lines)}


@contextlib.contextmanager
def programs():
    """Collects the different programs compiled inside, without small ones, in a dict that is filled at the end."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_dump_ir_to", folder)
        try:
            yield found
        finally:
            jax.config.update("jax_dump_ir_to", "")
        each = [of_program(path.read_text()) for path in sorted(Path(folder).rglob("*.mlir"))]
    each = {p["text"]: p for p in each if p["number of lines"] >= LEAST_LINES}.values()
    ordered = sorted(each, key=lambda p: (p["number of lines"], p["lines in any order"], p["text"]))
    found.update({f"program {i}": p for i, p in enumerate(ordered)})


# What is recorded: one function for each.


def training_programs(dataset: Path) -> dict:
    """The programs of the training step for both objectives, on one device and on eight."""
    found = {}
    for name, (sizes, number) in MESHES.items():
        data, fsdp, tensor, context = sizes
        mesh = make_mesh(data, fsdp, tensor, jax.devices()[:number], context=context)
        for objective, changes in (("ce", {}), ("fns", {"objective__fns_from_step": "0"})):
            config, tokenizer = configuration(dataset, **changes)
            stream = TokenStream(RegionSource(dataset, "train"), tokenizer, config.data, 0)
            step = make_train_step(config, mesh, objectives.of_config(config, tokenizer)(0), stream.axes)
            rows = config.train.batch_size
            batch = to_devices(next(stream.batches(0, rows, range(rows))), batch_sharding(mesh))
            with jax.set_mesh(mesh):
                lowered = step.lower(abstract_state(config, mesh), {}, batch)
            found[f"{objective}, {name}"] = of_program(lowered.as_text())
    return found


def regions_of(genome: Path) -> dict:
    """The number, bases and digest of all regions of a genome, for each scheme."""
    found = {}
    for name, scheme in SCHEMES.items():
        digest, number, bases = hashlib.sha256(), 0, 0
        (source,), _ = inputs.discover([genome], annotated=True)
        with tempfile.TemporaryDirectory() as scratch:
            kinds, qualifiers = schemes.feature_kinds(scheme), schemes.qualifiers(scheme)
            for record in inputs.records(source, kinds, scratch, lambda _: None, qualifiers):
                for region in extraction.regions(record, scheme):
                    place = (region.accession, *region[:4], region.taxon, region.codes, region.lower_case)
                    digest.update(plain((*place, *region[4:12])).encode())
                    number, bases = number + 1, bases + len(region.codes)
        found[name] = {"regions": number, "bases": bases, "sha256": digest.hexdigest()}
    return found


def dataset_arrays(dataset: Path) -> dict:
    """The digests of every region's bases and soft-masked runs, as the reader returns them."""
    found = {}
    for split in ("train", "validation"):
        source = RegionSource(dataset, split)
        lengths = source.index["length"].tolist()
        digest = hashlib.sha256()
        for i, length in enumerate(lengths):
            digest.update(plain((source.read(i, 0, length), source.lower_case(i, 0, length))).encode())
        found[split] = {"regions": len(lengths), "bases": sum(lengths), "sha256": digest.hexdigest()}
    return found


def training(dataset: Path) -> tuple[dict, list[float]]:
    """The digests of the batches and initial parameters, and the losses of the first steps, on one device."""
    config, tokenizer = configuration(dataset)
    mesh = make_mesh(1, 1, 1, jax.devices()[:1])
    stream = TokenStream(RegionSource(dataset, "train"), tokenizer, config.data, config.train.seed)
    step = make_train_step(config, mesh, objectives.of_config(config, tokenizer)(0), stream.axes)
    sharding, rows = batch_sharding(mesh), config.train.batch_size
    state, digests, losses = init_state(config, mesh), [], []
    with jax.set_mesh(mesh):
        for batch in itertools.islice(stream.batches(0, rows, range(rows)), STEPS):
            digests.append(of_arrays(batch))
            state, metrics = step(state, {}, to_devices(batch, sharding))
            losses.append(metrics["loss"])
    parameters = {}
    for seed in SEEDS:
        seeded = dataclasses.replace(config, train=dataclasses.replace(config.train, seed=seed))
        parameters[f"seed {seed}"] = of_arrays(init_state(seeded, mesh).params)
    batches = {"first": digests[0], f"all {STEPS}": sha256("".join(digests))}
    return {"batches": batches, "parameters": parameters}, [float(x) for x in losses]


def evaluation(dataset: Path) -> tuple[dict, dict]:
    """The programs of held-out evaluation, and its loss for initial parameters, which once had two programs."""
    config, _ = configuration(dataset, eval__max_regions="16")
    mesh = make_mesh(1, 1, 1, jax.devices()[:1])
    params = init_state(config, mesh).params
    with programs() as found:
        loss = HeldOut(config).prepare(config, mesh)(params).metrics["loss"]
    return found, dict.fromkeys(("by base False", "by base True"), loss)


def inference(dataset: Path) -> tuple[dict, dict]:
    """The programs and results of the shipped model."""
    lm = gener_jax.load("tiny", mesh=make_mesh(1, 1, 1, jax.devices()[:1]))
    source = RegionSource(dataset, "validation")
    long = [i for i, length in enumerate(source.index["length"].tolist()) if length >= 300][:20]
    genes = ["".join("ACGTN"[c] for c in source.read(i, 0, 300).tolist()) for i in long]
    prompts = [gene[: 20 + i] for i, gene in enumerate(genes)]
    ids = np.random.default_rng(0).integers(32, 4128, (4, 64))
    generated = {}
    with programs() as generating:
        generated["greedy"] = lm.generate(prompts, 60, temperature=0)
        sampled = lm.generate(prompts, 60, temperature=0.8, top_k=50, top_p=0.95, seed=1, log_probs=True)
        generated["sampled"] = [x.text for x in sampled]
        generated["log-probabilities"] = [np.asarray(x.log_probs, np.float64).round(6).tolist() for x in sampled]
    with programs() as scoring:
        scores = [s.value for s in lm.log_likelihood(genes, strand="both")]
        logits = lm.logits(ids)
    logits = {"norm": float(np.linalg.norm(logits.astype(np.float64))), "some": logits[:, ::9, ::97].ravel().tolist()}
    numbers = {"logits": logits, "scores": scores, "sequences": generated}
    return {"generation": generating, "scoring and logits": scoring}, numbers


def export(folder: Path) -> dict:
    """The digests of the shipped model's files in Hugging Face's format."""
    with contextlib.redirect_stdout(io.StringIO()):
        convert.main(["--checkpoint", "tiny", "--output", str(folder), "--format", "hf", "--dtype", "float32"])
    return {name: sha256((folder / name).read_bytes()) for name in ("model.safetensors", "vocab.txt")}


def record() -> dict:
    """All results."""
    with tempfile.TemporaryDirectory() as scratch:
        dataset = Path(scratch) / "dataset"
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            builder.build([EXAMPLE_GENOME], dataset, validation_fraction=0.1)
        genomes = {"example": regions_of(EXAMPLE_GENOME)}
        if SECOND_GENOME.exists():
            genomes["second"] = regions_of(SECOND_GENOME)
        else:
            genomes["second"] = f"skipped: {SECOND_GENOME} does not exist; set GENER_JAX_TEST_DATA"
            print(f"warning: regions of the second genome {genomes['second']}", file=sys.stderr)
        arrays, losses = training(dataset)
        evaluating, evaluated = evaluation(dataset)
        programs, numbers = inference(dataset)
        return {
            "made with": {"jax": jax.__version__, "python": platform.python_version(), "machine": platform.platform()},
            "equal": {
                "programs": {"training": training_programs(dataset), "evaluation": evaluating, **programs},
                "arrays": arrays,
                "regions": genomes,
                "dataset": dataset_arrays(dataset),
                "export": export(Path(scratch) / "export"),
            },
            "close": {"losses": losses, "evaluation": evaluated, **{n: numbers[n] for n in ("logits", "scores")}},
            "sequences": numbers["sequences"],
        }


# Comparing.


def leaves(tree, path: tuple = ()):
    """Yields (path, value) of each leaf of nested dicts and lists."""
    if isinstance(tree, dict | list):
        for name, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(value, (*path, str(name)))
    else:
        yield path, tree


def different(first: dict, second: dict) -> list[str]:
    """Lists the leaves that differ or are missing in one of the two."""
    first, second = dict(leaves(first)), dict(leaves(second))
    return [
        f"{' / '.join(path)}: {first.get(path, 'absent')} → {second.get(path, 'absent')}"
        for path in dict.fromkeys([*first, *second])
        if first.get(path) != second.get(path)
    ]


def far(first: dict, second: dict) -> list[str]:
    """Lists numbers that differ by more than their tolerance, relative to max(size, 1), or for losses to their size."""
    found, first, second = [], dict(leaves(first)), dict(leaves(second))
    for path in dict.fromkeys([*first, *second]):
        if path not in first or path not in second:
            found.append(f"{' / '.join(path)}: is missing in one of the two")
            continue
        a, b = first[path], second[path]
        if path[0] == "losses":
            tolerance, size = (1e-6 if int(path[1]) < 5 else 1e-4), abs(a)
        else:
            tolerance, size = 1e-5, max(abs(a), 1)
        if not abs(a - b) <= tolerance * size:  # true for NaN
            found.append(
                f"{' / '.join(path)}: {a!r} → {b!r}, differs by {abs(a - b) / size:.1e}, more than {tolerance:.0e}"
            )
    return found


def other_sequences(first: dict, second: dict) -> tuple[list[str], list[str]]:
    """Lists greedy sequences that differ, and sampled ones with the position and the log-probabilities before it."""
    greedy = [
        f"greedy {i}: {a} → {b}"
        for i, (a, b) in enumerate(zip(first["greedy"], second["greedy"], strict=True))
        if a != b
    ]
    sampled = []
    for i, (a, b) in enumerate(zip(first["sampled"], second["sampled"], strict=True)):
        if a != b:
            at = next((j for j, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
            p, q = (x["log-probabilities"][i][: at // 6 * 6] for x in (first, second))
            apart = max((abs(x - y) for x, y in zip(p, q, strict=True)), default=0.0)
            sampled.append(
                f"sampled {i}: from base {at}: {a[at:]} → {b[at:]}; log-probabilities before it differ by {apart:.0e}"
            )
    return greedy, sampled


def compare(first: dict, second: dict) -> int:
    """Prints the differences; returns 1 if there is one that must not be."""
    if first["made with"] != second["made with"]:
        print(f"note: made with {first['made with']} and {second['made with']}")
    skipped = [r for r in (first["equal"]["regions"], second["equal"]["regions"]) if isinstance(r["second"], str)]
    if skipped:
        print(f"note: regions of the second genome {skipped[0]['second']}")
        for each in (first, second):
            each["equal"]["regions"].pop("second")
    wrong = different(first["equal"], second["equal"])
    order = [path for path, _ in leaves(first["equal"]["programs"]) if path[-1] == "text"]
    for path in order:
        a, b = first["equal"]["programs"], second["equal"]["programs"]
        for name in path[:-1]:
            a, b = a.get(name, {}), b.get(name, {})
        if a != b and a.get("lines in any order") == b.get("lines in any order"):
            print(f"note: {' / '.join(path[:-1])}: the same lines, in another order")
    wrong += far(first["close"], second["close"])
    greedy, sampled = other_sequences(first["sequences"], second["sequences"])
    wrong += greedy
    for line in [*wrong, *(f"please check: {line}" for line in sampled)]:
        print(line)
    sizes = {name: sum(1 for _ in leaves(first["equal"][name])) for name in first["equal"]}
    counted = ", ".join(f"{number} of {name}" for name, number in sizes.items())
    largest = {}
    for (path, a), (_, b) in itertools.zip_longest(leaves(first["close"]), leaves(second["close"]), fillvalue=((), 0)):
        if path:
            largest[path[0]] = max(largest.get(path[0], 0.0), abs(a - b) / max(abs(a), 1))
    print(f"compared {counted}; largest difference: " + ", ".join(f"{n} {x:.1e}" for n, x in largest.items()))
    print(f"{len(wrong)} differ, {len(sampled)} sampled sequences differ")
    return 1 if wrong else 0


def main() -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.baseline", description=__doc__.splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("record").add_argument("file", type=Path)
    comparing = verbs.add_parser("compare")
    comparing.add_argument("first", type=Path)
    comparing.add_argument("second", type=Path)
    args = parser.parse_args()
    if args.verb == "record":
        args.file.write_text(json.dumps(record(), indent=1) + "\n")
        return 0
    return compare(json.loads(args.first.read_text()), json.loads(args.second.read_text()))


if __name__ == "__main__":
    sys.exit(main())
