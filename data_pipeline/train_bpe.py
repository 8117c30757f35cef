"""Trains a byte-pair vocabulary on the regions of a dataset.

    gener-jax data train_bpe datasets/mine --vocab_size 1024 --output bpe.model

Reads windows of the train split's regions in an order that depends only on the seed, up to --max_bases. The same
dataset and arguments give the same file, byte for byte. The last line on standard output is a JSON object.
"""

import io
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from data_pipeline import cli
from data_pipeline.dataset.reader import RegionSource
from data_pipeline.errors import ArgumentError, DataError, DatasetError, FileError
from data_pipeline.files import atomic
from data_pipeline.ranges import SEED, Whole
from data_pipeline.sequence import bases
from data_pipeline.sequence.tokenizer import NUM_SPECIAL, SPECIAL_TOKENS, BpeTokenizer

PIECES, BASES = Whole(NUM_SPECIAL + 4), Whole(1)
WINDOW = 65536  # bases per window, so that one chromosome does not fill the whole sample
CHUNK = 4096  # bases; sentencepiece drops sentences above 4192 bytes
MAX_PIECE = 16  # bases


def sample(source: RegionSource, max_bases: int, seed: int) -> Iterator[str]:
    """Yields chunks of up to 4096 A, C, G and T from windows of the regions in random order, `max_bases` in total.

    Each window is used at most once, and a chunk ends before an N.
    """
    windows = -(-np.asarray(source.index["length"], np.int64) // WINDOW)
    firsts = np.concatenate([[0], np.cumsum(windows)])
    left = max_bases
    for window in np.random.default_rng(seed).permutation(int(firsts[-1])):
        region = int(np.searchsorted(firsts, window, "right")) - 1
        start = int(window - firsts[region]) * WINDOW
        stop = min(start + WINDOW, int(source.index["length"][region]))
        codes = source.read(region, start, stop)
        for run_start, run_stop in bases.runs(codes < bases.N).tolist():
            for i in range(run_start, run_stop, CHUNK):
                chunk = codes[i : min(i + CHUNK, run_stop, i + left)]
                left -= len(chunk)
                yield bases.decode(chunk)
                if not left:
                    return


def train(chunks: list[str], vocab_size: int) -> bytes:
    """Trains a sentencepiece BPE model over A, C, G and T, with the special tokens as ids 0 to 31; returns the file.

    Raises:
      ArgumentError: vocab_size, special tokens included, is too large for these bases.
      DataError: the chunks lack A, C, G or T.
    """
    missing = sorted(set("ACGT").difference(*chunks))
    if missing:
        raise DataError(
            f"the {sum(map(len, chunks))} training bases contain no {missing[0]}, but a vocabulary needs A, C, G and T",
            remedy="train on more bases",
        )
    oov, bos, eos, pad, *control = SPECIAL_TOKENS
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(chunks),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            unk_id=0, unk_piece=oov, bos_id=1, bos_piece=bos, eos_id=2, eos_piece=eos, pad_id=3, pad_piece=pad,
            control_symbols=control,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            split_by_whitespace=False,
            split_by_unicode_script=False,
            split_by_number=False,
            character_coverage=1.0,
            byte_fallback=False,
            max_sentencepiece_length=MAX_PIECE,
            num_threads=1,
            shuffle_input_sentence=False,
            input_sentence_size=0,  # the whole sample, which --max_bases limits
            minloglevel=2,
        )  # fmt: skip
    except RuntimeError as error:
        if "too high" not in str(error):
            raise
        total = sum(map(len, chunks))
        raise ArgumentError(
            f"is too large for {total} bases",
            field="vocab_size",
            value=vocab_size,
            remedy="choose a smaller one or more bases",
        ) from None
    return model.getvalue()


def build(dataset: str | Path, vocab_size: int, output: str | Path, max_bases: int = 10_000_000, seed: int = 0) -> dict:
    """Trains on the train split of a dataset of bases and writes the model; returns the facts that the command prints.

    Raises:
      DataError: the dataset is missing, damaged or contains token ids; the output exists or its folder does not; a
        number is out of range, or vocab_size is too large for the sample. Nothing is written in that case.
    """
    output = Path(output)
    if os.path.lexists(output):
        raise FileError("exists already", file=output, remedy="remove it or choose another output")
    if not output.parent.is_dir():
        raise FileError("no such folder", file=output.parent, remedy="create it or choose another output")
    max_bases, seed = BASES.check(max_bases, "max_bases"), SEED.check(seed, "seed")
    vocab_size = PIECES.check(vocab_size, "vocab_size")
    source = RegionSource(dataset, "train")
    if source.storage != "bases":
        raise DatasetError(
            f"contains {source.storage}, not bases", file=dataset, remedy="build it with --storage bases"
        )
    chunks = list(sample(source, max_bases, seed))
    total = sum(map(len, chunks))
    print(f"training {vocab_size} pieces on {total} bases of {dataset}", file=sys.stderr)
    model = train(chunks, vocab_size)
    with atomic(output) as partial:
        partial.write_bytes(model)
        tokenizer = BpeTokenizer(str(partial))
    return {
        "output": str(output),
        "vocab_size": tokenizer.vocab_size,
        "digest": tokenizer.digest,
        "bases": total,
        "seed": seed,
        "longest_piece": int(tokenizer.token_bases.max()),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code."""
    cli.escape_unencodable()
    parse = cli.Parser(__doc__)
    parse.add_argument("dataset", metavar="DIR", help="a dataset of bases; its train split is read")
    parse.add_argument("--vocab_size", type=PIECES, default=1024, help="with the special tokens")
    parse.add_argument("--output", required=True, metavar="FILE", help="the model to write; it must not exist")
    parse.add_argument("--max_bases", type=BASES, default=10_000_000, help="train on at most so many bases")
    parse.add_argument("--seed", type=SEED, default=0, help="seed of the order in which regions are read")
    cli.add_json(parse)
    options = vars(parse.parse_args(arguments))
    as_json = options.pop("json")
    return cli.run(lambda: cli.finish(build(**options), as_json))


if __name__ == "__main__":
    sys.exit(main())
