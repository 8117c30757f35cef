"""Generates DNA after prompts, as FASTA records of a prompt and its continuation.
Exit status 3: a record of --fasta, named on standard error, is not usable.

    gener-jax sample --checkpoint tiny --prompt ATG --num_bases 600 --seed 1
"""

import sys
from pathlib import Path

from data_pipeline import cli
from data_pipeline.files import write_text
from data_pipeline.formats import fasta as fasta_file
from data_pipeline.ranges import SEED, Whole
from data_pipeline.sequence import bases
from data_pipeline.sequence.tokenizer import SPECIAL_TOKENS
from gener_jax.cli import command
from gener_jax.config import Sample
from gener_jax.config.schema import TEMPERATURE, TOP_P
from gener_jax.inference.options import FRACTION, HOMOPOLYMER, MODES
from gener_jax.inference.prompt import REMAINDERS, Prompt, parse_prefix
from gener_jax.runtime import errors
from gener_jax.runtime.errors import ConfigError
from gener_jax.runtime.progress import Rate, log
from gener_jax.storage.files import refuse_existing


def fasta(name: str, sequence: str, width: int = 70) -> str:
    """One FASTA record."""
    lines = [sequence[i : i + width] for i in range(0, len(sequence), width)]
    return "\n".join([f">{name}", *lines]) + "\n"


def main(argv=None) -> int:
    """Runs the command; returns its exit status."""
    program = command.Command(__doc__, checkpoint=True)
    add = program.parser.add_argument_group("prompts and output").add_argument
    add("--prompt", action="append", dest="prompts", metavar="DNA", help="DNA of any length; repeatable")
    add("--fasta", metavar="FILE", help="prompts, as FASTA; plain or gzip; - is standard input")
    add("--prefix", default="", metavar="TOKENS", help="special tokens before each prompt, e.g. <mam><cds>")
    add("--remainder", choices=REMAINDERS, default="constrain", metavar="HOW",
        help="left over: constrain, trim_left, pad_left")  # fmt: skip
    add("--num_bases", type=Whole(), default=Sample.num_bases, help="bases to generate")
    add("--num_samples", type=Whole(1), default=Sample.num_samples, help="samples per prompt")
    add("--output", type=Path, metavar="FASTA", help="the file to write [standard output]")
    add("--log_probs", type=Path, metavar="TSV", help="a table of each base and its log-probability in nats")
    add("--overwrite", action="store_true", help="replace output files that exist")
    add = program.parser.add_argument_group("generation").add_argument
    add("--temperature", type=TEMPERATURE, default=Sample.temperature, help="0: the most likely token")
    add("--top_k", type=Whole(), default=Sample.top_k, help="only the k most likely tokens; 0: all")
    add("--top_p", type=TOP_P, default=Sample.top_p, help="those of this total probability")
    add("--mode", choices=MODES, default="token", help="base: sample each base by itself")
    add("--seed", type=SEED, default=Sample.seed, help="each sample has its own stream")
    add("--stop", action="append", default=[], metavar="TOKEN", choices=SPECIAL_TOKENS,
        help="a special token that ends it, e.g. </s>; repeatable")  # fmt: skip
    add("--stop_codon", action="store_true", help="end after the first stop codon in the prompt's frame")
    add("--require_stop_codon", action="store_true", help="end with one, within --num_bases")
    add("--min_orf_length", type=Whole(), default=0, help="bases without a stop codon in that frame")
    add("--genetic_code", type=Whole(1), default=1, help="NCBI's number of the frame's code")
    add("--max_homopolymer", type=HOMOPOLYMER, help="longest homopolymer, in bases [no limit]")
    add("--forbidden_motifs", action="extend", nargs="+", default=[], metavar="X",
        help="one or more IUPAC motifs to avoid, on both strands")  # fmt: skip
    add("--gc", type=FRACTION, nargs=2, metavar=("MIN", "MAX"), help="GC content, as fractions [no limit]")
    args, config, folder = program.parse(argv)
    if args.output is None and args.json:
        raise ConfigError("needs --output, since standard output holds the FASTA", "--json", True)
    for name in [name for name in args.overrides if name.startswith("sample.")]:
        problem = "config.sample is what training generates; here it is a flag, such as --num_bases 600"
        raise ConfigError(problem, f"--config.{name}", args.overrides[name])
    if args.fasta is not None and args.prompts:
        raise ConfigError("give either --prompt or --fasta, not both")
    special = parse_prefix(args.prefix)
    for flag, path in (("--output", args.output), ("--log_probs", args.log_probs)):
        if path is None:
            continue
        if not path.name or path.is_dir():
            raise ConfigError("is a folder; give the name of a file", flag, str(path))
        refuse_existing(path, args.overwrite, flag)
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
    names = ("num_bases", "num_samples", "temperature", "top_k", "top_p", "seed")
    sample = Sample(tuple(args.prompts or [""]), **{name: getattr(args, name) for name in names})
    if args.fasta is None:
        flagged = []
        with errors.user_errors("--prompt"):
            named = [("", Prompt.parse(args.prefix + text)) for text in sample.prompts]
    else:
        sequences = list(fasta_file.read(args.fasta, flag=True))
        named = [(s.name, Prompt(special, s.codes)) for s in sequences if not s.problem]
        flagged = [(s.name, s.problem) for s in sequences if s.problem]

    from gener_jax.inference.constraints import Constraints
    from gener_jax.inference.generate import BATCH_SIZE, cache_size, encode
    from gener_jax.inference.lm import from_spec
    from gener_jax.storage.compilation import keep_programs

    with errors.user_errors(flags=vars(args)):
        constraints = Constraints(
            max_homopolymer=args.max_homopolymer, forbidden_motifs=tuple(args.forbidden_motifs),
            gc=args.gc and tuple(args.gc), min_orf_length=args.min_orf_length,
            stop_codon=args.stop_codon, genetic_code=args.genetic_code, require_stop_codon=args.require_stop_codon,
        )  # fmt: skip
    tokenizer = config.tokenizer.make()
    lengths, limit = [len(prompt.encode(tokenizer, args.remainder).ids) for _, prompt in named], config.model.max_length
    longest = max((length for length in lengths if limit is None or length <= limit), default=0)
    most = min(len(named) * sample.num_samples, BATCH_SIZE)
    rows, slots = cache_size(most, longest, sample.num_bases, tokenizer)
    keep_programs(config, folder)
    lm = from_spec(config.spec, folder, step=args.step, batch=rows, tokens=slots, weights=args.weights)
    if args.fasta is not None:
        exact, found, named = args.log_probs is not None or bool(constraints), named, []
        for name, prompt in found:
            try:
                encode(lm, prompt, name, sample.num_bases, args.remainder, exact)
                named.append((name, prompt))
            except errors.InputError as error:
                flagged.append((name, error.problem))
        for name, problem in flagged:
            log(f"no sample of record {name}: {problem}")
    number = len(named) * sample.num_samples
    if sys.stderr.isatty():
        log(f"compiling, then {number:,} samples of {sample.num_bases:,} bases")
    rate = Rate("sample", number)
    with errors.user_errors(flags=vars(args)):
        continuations = lm.generate(
            [prompt for _, prompt in named], sample.num_bases, num_samples=sample.num_samples,
            temperature=sample.temperature, top_k=sample.top_k, top_p=sample.top_p, mode=args.mode, seed=sample.seed,
            stop=args.stop, remainder=args.remainder, constraints=constraints, log_probs=args.log_probs is not None,
            details=True, on_batch=rate.update,
        )  # fmt: skip
    rate.close()
    text, table = [], ["sample\tposition\tbase\tlog_p\n"]
    for i, c in enumerate(continuations):
        record, prompt = named[i // sample.num_samples]
        dna = bases.decode(prompt.codes)
        name = f"{record}_sample_{i % sample.num_samples + 1}" if record else f"sample_{i + 1}"
        described = f"prompt_bases={len(dna)} bases={len(c.text)} end={c.end}"
        text.append(fasta(f"{name} {described} temperature={sample.temperature} seed={sample.seed}", dna + c.text))
        if c.log_probs is not None:
            table += [
                f"{name}\t{j}\t{b}\t{p:.6g}\n" for j, (b, p) in enumerate(zip(c.text, c.log_probs, strict=True), 1)
            ]
    if args.log_probs is not None:
        write_text(args.log_probs, "".join(table))
    if args.output is None:
        sys.stdout.write("".join(text))
    else:
        write_text(args.output, "".join(text))
        bases_made = sum(len(c.text) for c in continuations)
        facts = {"output": str(args.output), "samples": len(text), "bases": bases_made}
        cli.finish(facts | ({"flagged": len(flagged)} if flagged else {}), args.json)
    return command.FLAGGED if flagged else 0


if __name__ == "__main__":
    command.run(main)
