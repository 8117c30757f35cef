"""Generates DNA: python -m gener_jax.sample --checkpoint RUN --prompt ATG --num_bases 600 --temperature 0.8 --seed 1

Writes FASTA on standard output (or to --output), a record a sample: the prompt's bases and the continuation of exactly
--num_bases bases. What is not given is taken from the run's config.sample.
"""

import dataclasses
import os
import sys
from pathlib import Path

from gener_jax import command
from gener_jax.config import Sample
from gener_jax.inference.generate import BATCH_SIZE, cache_size, split_prompt
from gener_jax.inference.lm import from_config
from gener_jax.tokenizer import SPECIAL_TOKENS, for_config


def fasta(name: str, sequence: str, width: int = 70) -> str:
    """One FASTA record."""
    lines = [sequence[i : i + width] for i in range(0, len(sequence), width)]
    return "\n".join([f">{name}", *lines]) + "\n"


def main(argv=None) -> None:
    """The command."""
    program = command.Command(__doc__, checkpoint=True)
    add = program.parser.add_argument
    add("--prompt", action="append", metavar="DNA", help="DNA of any length; may be given several times")
    add("--num_bases", type=int, help="bases to generate")
    add("--num_samples", type=int, help="samples a prompt")
    add("--temperature", type=float, help="0 is greedy")
    add("--top_k", type=int, help="draw among the k most likely tokens; 0: all")
    add("--top_p", type=float, help="draw among the fewest tokens that hold this mass")
    add("--seed", type=int)
    add("--stop", action="append", default=[], metavar="TOKEN", choices=SPECIAL_TOKENS,
        help="a special token that ends a sample, e.g. </s>")  # fmt: skip
    add("--step", type=command.step, help="a checkpoint's step, or best [the newest]")
    add("--output", type=Path, metavar="FILE", help="instead of standard output")
    args, config, folder = program.parse(argv)
    given = {
        f.name: getattr(args, f.name) for f in dataclasses.fields(Sample) if getattr(args, f.name, None) is not None
    }
    if args.prompt:
        given["prompts"] = tuple(args.prompt)
    sample = dataclasses.replace(config.sample, **given)
    with command.refusing("--prompt"):  # before the parameters are read
        tokenizer, _ = for_config(config)
        ids = [split_prompt(tokenizer, prompt)[0] for prompt in sample.prompts for _ in range(sample.num_samples)]
    rows, slots = cache_size(ids, sample.num_bases, tokenizer, BATCH_SIZE)
    lm = from_config(config, folder, step=args.step, batch=rows, tokens=slots)
    prompts = [p for p in sample.prompts for _ in range(sample.num_samples)]
    with command.refusing():
        continuations = lm.generate(
            prompts, sample.num_bases, temperature=sample.temperature, top_k=sample.top_k, top_p=sample.top_p,
            seed=sample.seed, stop=args.stop,
        )  # fmt: skip
    described = f"bases={sample.num_bases} temperature={sample.temperature} seed={sample.seed}"
    text = "".join(
        fasta(f"sample_{i} prompt_bases={len(p[p.rfind('>') + 1 :])} {described}", p[p.rfind(">") + 1 :] + s)
        for i, (p, s) in enumerate(zip(prompts, continuations, strict=True), 1)
    )
    if args.output is None:
        sys.stdout.write(text)
        return
    beside = args.output.with_name(args.output.name + ".partial")
    beside.write_text(text)
    os.replace(beside, args.output)


if __name__ == "__main__":
    command.run(main)
