"""Every number that a user can give has a type and a range; introspection finds the arguments, fields and flags."""

import argparse
import dataclasses
import importlib
import inspect
import json
import math
import numbers
import sys
import typing

import numpy as np
import pytest

from data_pipeline import train_bpe
from data_pipeline.__main__ import VERBS as OF_DATA
from data_pipeline.dataset.builder import build
from data_pipeline.dataset.reader import RegionSource
from data_pipeline.errors import ArgumentError
from data_pipeline.ranges import Range, Real, Whole
from data_pipeline.regions.schemes import Scheme
from data_pipeline.sequence.tokenizer import KmerTokenizer, make
from data_pipeline.splitting.split import check_fractions
from gener_jax import config, embed, sample
from gener_jax.__main__ import VERBS
from gener_jax.benchmarks.__main__ import VERBS as OF_BENCHMARKS
from gener_jax.cli import command
from gener_jax.inference.constraints import GC, Constraints, Motifs, ReadingFrame
from gener_jax.inference.lm import LM, load
from gener_jax.inference.prompt import Prompt
from gener_jax.inference.samplers import Tokens, of_options
from gener_jax.inference.variants.interval import Interval
from gener_jax.inference.variants.scoring import Scorer
from gener_jax.model import lora
from gener_jax.runtime.errors import ConfigError, InputError, real, whole
from tests.raised import check, raises

SECTIONS = [field.default_factory for field in dataclasses.fields(config.Config)
            if field.default is dataclasses.MISSING]  # fmt: skip
ALWAYS_WRONG = ("3", "", b"3", True, np.True_, math.nan, math.inf, -math.inf, np.float32("inf"), [1], 1j, -2, 10**400)
NOT_WHOLE = (6.5, 6.0, np.float32(6), 2**32, np.int64(2**32))
NOT_REAL = (1e39, 1e-50, np.float64(1e-50))


def lm_that_computes_nothing() -> LM:
    """A model without parameters: what uses it for more than checking arguments fails."""
    lm = LM.__new__(LM)
    lm.spec = config.ModelSpec(model=config.Model(hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
                                                  num_key_value_heads=1))  # fmt: skip
    lm.mesh = lm.provenance = None
    lm.tokenizer = lm.spec.tokenizer.make()
    return lm


LM_ = lm_that_computes_nothing()
GENOME = {"1": "ACGT" * 20}
# Each function with the arguments of a call in which one number at a time is replaced.
CALLS = [
    (LM_.generate, {"prompts": ["ACG"], "num_bases": 6}),
    (lambda **options: next(LM_.stream(**options)), {"prompt": "ACG", "num_bases": 6}),
    (LM_.embed, {"sequences": ["ACGTTT"]}),
    (LM_.predict, {"sequences": ["ACGTTT"]}),
    (LM_.annotate, {"sequences": ["ACGTTT"]}),
    (LM_.log_likelihood, {"sequences": ["ACGTTT"]}),
    (LM_.base_probabilities, {"sequences": ["ACGTTT"]}),
    (LM_.dependency_map, {"sequence": "ACGTTT"}),
    (LM_.score_variants, {"variants": [("1", 30, "G", "T")], "genome": GENOME}),
    (LM_.score_region, {"interval": "1:31-40", "genome": GENOME}),
    (LM_.saturation, {"interval": "1:31-40", "genome": GENOME}),
    (Scorer, {"lm": LM_}),
    (load, {"folder": "no/such/folder"}),
    (of_options, {}),
    (Tokens, {}),
    (Constraints, {}),
    (Motifs, {}),
    (ReadingFrame, {}),
    (GC, {"bounds": (0.2, 0.8)}),
    (lora.init, {"key": None, "boxed": {}, "targets": str, "rank": 8, "alpha": 16}),
    (build, {"inputs": ["no/such/file"], "output": "no/such/folder"}),
    (train_bpe.build, {"dataset": "no/such/folder", "vocab_size": 64, "output": "no-such-file"}),
    (RegionSource, {"folder": "no/such/folder", "split": "train"}),
    (Scheme, {}),
    (KmerTokenizer, {}),
    (make, {"kind": "kmer"}),
    (check_fractions, {"validation_fraction": 0.1, "test_fraction": 0.1}),
]
SIGNATURES = {CALLS[1][0]: LM.stream}


def kinds(hint) -> set:
    """A type hint and the ones inside it: of `tuple[float, float] | None`, tuple, float and None among others."""
    if isinstance(hint, list):  # the arguments of a Callable
        return set()
    return {hint, typing.get_origin(hint)}.union(*map(kinds, typing.get_args(hint)))


def numbers_of(function) -> list[tuple[str, set]]:
    """The numeric arguments of a function, with the types of their hints."""
    hints = typing.get_type_hints(function.__init__ if inspect.isclass(function) else function)
    named = ((name, kinds(hints.get(name))) for name in inspect.signature(function).parameters)
    return [(name, found) for name, found in named if found & {int, float} and name != "variants"]


def wrong_values(types: set) -> list:
    """What no number of these types may be."""
    values = [*ALWAYS_WRONG, *(NOT_REAL if float in types else NOT_WHOLE)]
    return values if type(None) in types else [*values, None]


CASES = [
    pytest.param(function, arguments, name, types, id=f"{SIGNATURES.get(function, function).__qualname__}-{name}")
    for function, arguments in CALLS
    for name, types in numbers_of(SIGNATURES.get(function, function))
]


@pytest.mark.parametrize(("function", "arguments", "name", "types"), CASES)
def test_a_wrong_number_is_refused_by_name_before_anything_is_computed(function, arguments, name, types):
    for wrong in wrong_values(types):
        if function is Tokens and not isinstance(wrong, numbers.Real | str):
            continue  # it is also made inside programs, of what is not a number
        if name == "seed" and wrong == [1]:
            continue
        value = (0.2, wrong) if tuple in types else wrong  # the minimum and maximum of gc
        with pytest.raises((InputError, ArgumentError)) as caught:
            function(**{**arguments, name: value})
        argument = {"bounds": "gc"}.get(name, name)
        check(caught.value, type(caught.value), **{
            "argument" if isinstance(caught.value, InputError) else "field": argument
        })  # fmt: skip
        assert caught.value.value is value or type(value) is tuple


def test_no_method_with_a_number_is_left_out():
    public = {name for name, method in inspect.getmembers(LM, inspect.isfunction)
              if name[0] != "_" and numbers_of(method)}  # fmt: skip
    assert public - {"check_length"} == {  # which checks the model's
        SIGNATURES.get(function, function).__name__
        for function, _ in CALLS
        if SIGNATURES.get(function, function).__qualname__.startswith("LM.")
    }
    assert len(CASES) > 40


@pytest.mark.parametrize("section", [config.Model, *SECTIONS], ids=lambda section: section.__name__)
def test_a_wrong_number_of_a_field_is_refused_by_name(section):
    path = "" if section is config.Config else f"{section.__name__.lower()}."
    for name, types in numbers_of(section):
        for wrong in wrong_values(types):
            if (name, wrong) == ("seed", 2**32 - 1):
                continue
            with raises(ConfigError, field=path + name) as caught:
                section(**{name: wrong})
            assert caught.value.value is wrong, name


def test_numbers_of_numpy_are_accepted_and_become_those_of_python():
    values = {}
    for section in SECTIONS:
        name = section.__name__.lower()
        fields = {field.name: getattr(section(), field.name) for field in dataclasses.fields(section)}
        values[name] = {
            field: np.float64(value) if type(value) is float else np.int64(value)
            for field, value in fields.items()
            if type(value) in (int, float) and (name, field) != ("model", "vocab_size")
        }
    made = config.resolve(values)
    assert made == config.resolve({})
    assert config.resolve(json.loads(config.dumps(made))) == made
    assert sum(map(len, values.values())) > 50
    for made in (Scheme(flank=np.int64(3)).flank, KmerTokenizer(np.uint8(2)).k, GC((np.float32(0), 1)).bounds[0],
                 whole(np.int16(3), "x"), real(3, "x", above=0)):  # fmt: skip
        assert type(made) in (int, float)


def test_ranges():
    """The bounds themselves; a number that float32 rounds to an open bound is outside."""
    assert [x in Real(above=0, most=1) for x in (0, 1e-30, 1, 1 + 1e-12)] == [False, True, True, False]
    assert [x in Real(least=0.1, below=1) for x in (0.1, 0.0999, 0.999, 1 - 1e-12)] == [True, False, True, False]
    assert [x in Real(above=1, zero=True) for x in (0, 0.5, 1, 1.5, -0.0)] == [True, False, False, True, True]
    assert [x in Whole(1, 3) for x in (0, 1, 3, 4)] == [False, True, True, False]
    assert str(Real(above=0)) == "a finite float32 number above 0"
    assert str(Real(least=0, most=0.5, zero=True)) == "0, or a float32 number from 0 to 0.5"


def test_a_variant_with_a_wrong_position_is_flagged_and_such_an_interval_refused():
    starts = ("3", True, 6.5, math.nan, None, 10**400, np.int64(-1))
    scored = list(LM_.score_variants([("1", start, "G", "T") for start in starts], GENOME))
    assert all(each.flag and each.flag.isprintable() for each in scored)
    assert len(scored) == len(starts)
    for start, end in ((6.5, 9), ("3", "9"), (True, 9), (3, math.nan), (None, None), (-1, 9), (9, 3)):
        with raises(InputError, argument="region"):
            LM_.score_region(Interval("1", start, end), GENOME)


def test_the_ids_of_a_prompt():
    assert str(Prompt([11], [0, 1, 2, 3, 4])) == "<cds>ATCGN"
    assert str(Prompt((), ())) == ""
    for wrong in ([32], [-1], [1.0], [True], [[1]], 3, None, "A"):
        with raises(InputError, argument="special"):
            Prompt(wrong, [])
        with raises(InputError, argument="codes"):
            Prompt([], wrong)


MODULES = [module for verbs in (VERBS, OF_DATA, OF_BENCHMARKS) for module, _ in verbs.values()
           if not module.endswith("__main__")]  # fmt: skip


class Parsed(Exception):
    """A command has made its parser."""


def parser_of(module: str, monkeypatch) -> argparse.ArgumentParser:
    """The parser of a command, which does not run."""

    def stop(parser, *_):
        raise Parsed(parser)

    main = importlib.import_module(module).main
    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        patch.setattr(argparse.ArgumentParser, "parse_known_args", stop)
        patch.setattr(sys, "argv", [module])
        with pytest.raises(Parsed) as caught:
            main()
    return caught.value.args[0]


@pytest.mark.parametrize("module", MODULES)
def test_a_wrong_number_of_a_flag_ends_the_command_in_one_line(module, monkeypatch, capsys):
    parser = parser_of(module, monkeypatch)
    for action in parser._actions:
        assert action.type not in (int, float), action.dest
        if not isinstance(action.type, Range) and action.type is not command.step:
            continue
        texts = ["x", "", "None", "True", "nan", "inf", "-inf", "-1", "9" * 400]
        is_real = getattr(action.type, "type", int) is float
        for text in [*texts, *(("1e39", "1e-50") if is_real else ("6.5", "1e3", str(2**32)))]:
            count = action.nargs if isinstance(action.nargs, int) else 1
            given = (
                [f"{action.option_strings[0]}={text}"] if count == 1 else [action.option_strings[0], *[text] * count]
            )
            with pytest.raises(SystemExit) as caught:
                parser.parse_args(given)
            assert caught.value.code == 2
            [line] = capsys.readouterr().err.splitlines()
            assert action.option_strings[0] in line
            if text != "-inf" or count == 1:  # -inf alone reads as another flag
                assert f"not {text!r}"[:200] in line


def test_all_numeric_flags_are_found(monkeypatch):
    numeric = [action.dest for module in MODULES for action in parser_of(module, monkeypatch)._actions
               if isinstance(action.type, Range)]  # fmt: skip
    assert len(numeric) > 45


@pytest.mark.parametrize(
    ("main", "arguments", "field"),
    [
        (sample.main, ["--config.sample.temperature=inf"], "sample.temperature"),
        (sample.main, ["--config.sample.num_bases=6.5"], "sample.num_bases"),
        (sample.main, ["--genetic_code=99"], "--genetic_code"),
        (sample.main, ["--gc", "0.6", "0.4"], "gc"),
        (embed.main, ["--fasta={empty}", "--output={folder}/out.npz", "--layer=99"], "--layer"),
    ],
)
def test_what_a_command_finds_out_later_names_the_flag_too(main, arguments, field, tmp_path, capsys):
    (tmp_path / "empty.fa").write_text(">a\nACGT\n")
    arguments = [text.format(empty=tmp_path / "empty.fa", folder=tmp_path) for text in arguments]
    with pytest.raises(SystemExit) as caught:
        command.run(lambda: main(["--checkpoint", "tiny", *arguments]))
    out, err = capsys.readouterr()
    assert (caught.value.code, out) == (2, "")
    assert [line.split(" is ")[0] for line in err.splitlines()] == [f"error: {'--' * (field == 'gc')}{field}"]
    assert [path.name for path in tmp_path.iterdir()] == ["empty.fa"]
