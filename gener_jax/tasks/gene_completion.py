"""Gene completion: how much of a protein a model encodes that is given the beginning of its gene.

The benchmark of Evo 2 (Brixi et al. 2026, doi:10.1038/s41586-026-10176-5) with the genes and rules of its repository
(ArcInstitute/evo2, scripts/gene_completion): four genes of prokaryotes and eight of eukaryotes, 50 completions each,
sampled among the four most likely tokens at temperature 0.7 and 1.0.

Prokaryotes: the prompt is the 1,000 bases before the gene and the first 30 % of its codons. Prompt and completion are
translated up to the first stop and aligned to the protein.

Eukaryotes: exonerate finds the codons of the protein in prompt and completion, across introns. In the repository the
prompt is the first 30 % of a window that begins 5,000 bases before the gene and ends in the middle of it: all of that
is before the gene, the part of the protein that its script would compare begins beyond the protein's end, and its value
is NaN for all eight. So here the prompt reaches to 30 % of the amino acids that the window encodes, which is what the
repository's text says; `eukaryote_prompt="window"` gives the script's prompts, and all amino acids are then expected.

Two numbers are made of the part that follows the prompt. The identity, as published, is the fraction of equal amino
acids among the aligned ones, completions without any left out: a completion that stops after one correct amino acid
has 1, and random DNA is far above 0, as gaps are chosen to fit. The recovery is the fraction of all that are expected.
"""

import concurrent.futures
import dataclasses
import math
import os
import shutil
from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np

from data_pipeline.sequence import bases
from gener_jax.labelled import table
from gener_jax.plotting import evaluation
from gener_jax.statistics.intervals import interval
from gener_jax.statistics.metrics import Metric, mean
from gener_jax.storage.results import Published
from gener_jax.tasks import published
from gener_jax.tasks.base import Entry, ModelTask, NotRun, Options, Paired, Progress, Result, installed, silent
from gener_jax.tasks.markov import Markov
from gener_jax.tasks.protein_alignment import Aligned, spliced, translated

PANELS = {"prokaryote": 4, "eukaryote": 8}  # genes
SCORES = ("recovery", "identity")
PROMPTS = ("gene", "window")  # of eukaryotes
TEMPERATURES = {"prokaryote": 0.7, "eukaryote": 1.0}
SAMPLES, TOP_K = 50, 4
UPSTREAM = 1000  # bases
FRACTION = 0.3  # of the gene or window, in the prompt
SOURCE = "scripts/gene_completion/data of https://github.com/ArcInstitute/evo2, compressed with gzip"
_MARKOV_ORDER, _BASELINE_SAMPLES = 3, 10


@dataclasses.dataclass(frozen=True)
class Question:
    """The beginning of a gene, and what its completion is compared with.

    Attributes:
      gene, panel: its name, and which of `PANELS` it is of.
      prompt: bases.
      num_bases: how many to generate.
      truth: the bases that follow the prompt, as far as they are known.
      first, end: the amino acids of the protein, 0-based half-open, that are compared.
      expected: how many of them the truth encodes.
      aligned: what a completion encodes, with prompt, of the protein.
    """

    gene: str
    panel: str
    prompt: str
    num_bases: int
    truth: str
    first: int
    end: int
    expected: int
    aligned: Callable[[str], Aligned]

    def judged(self, completion: str) -> tuple[float, float]:
        """Recovery and identity of a completion; the identity is NaN if nothing is aligned."""
        found = self.aligned(completion)
        equal = found.equal[(found.index >= self.first) & (found.index < self.end)]
        return equal.sum() / self.expected, float(equal.mean()) if len(equal) else float("nan")


def prokaryote(gene: str, window: str, protein: str, start: int) -> Question:
    """The question of a gene without introns, from base `start` to the end of a window; the protein ends with *."""
    first = round((len(window) - start) / 3 * FRACTION)
    end, begin = start + 3 * first, max(start - UPSTREAM, 0)
    prompt, coding = window[begin:end], window[start:end]
    num_bases = 3 * (len(protein) - first) + 150
    return Question(
        gene, "prokaryote", prompt, num_bases, window[end:], first, len(protein), len(protein) - 1 - first,
        lambda completion: translated(protein, coding + completion),
    )  # fmt: skip


def eukaryote(gene: str, window: str, protein: str, exonerate: str, prompt: str = "gene") -> Question:
    """The question of a gene with introns, which a window holds to its middle; `prompt` is one of `PROMPTS`."""
    protein = protein.rstrip("*")
    true = spliced(protein, window, exonerate)
    end = int(true.ends[round(FRACTION * len(true.ends)) - 1]) if prompt == "gene" else int(FRACTION * len(window))
    expected, begin = true.index[true.ends > end], window[:end]
    return Question(
        gene, "eukaryote", begin, len(window) - end + 50, window[end:], int(expected[0]), int(expected[-1]) + 1,
        len(expected), lambda completion: spliced(protein, begin + completion, exonerate),
    )  # fmt: skip


def by_markov(question: Question, rows: int, rng: np.random.Generator) -> list[str]:
    """Completions by a Markov model of order 3 of the prompt."""
    model, codes = Markov(_MARKOV_ORDER), bases.encode(question.prompt)
    model.add(codes)
    return [bases.decode(x) for x in model.drawn(codes, question.num_bases, rows, rng)]


def by_shuffling(question: Question, rows: int, rng: np.random.Generator) -> list[str]:
    """The true codons in random order, the last one, a stop where the gene ends, in its place; introns count as codons.

    The length, the stop and the usage of codons, and so of amino acids, are all correct.
    """
    codons = [question.truth[i : i + 3] for i in range(0, len(question.truth) - 2, 3)]
    return ["".join([codons[i] for i in rng.permutation(len(codons) - 1)] + codons[-1:]) for _ in range(rows)]


BASELINES = {"markov_3": by_markov, "shuffled_codons": by_shuffling}


def _unit(panel: str) -> dict[str, Metric]:
    return {f"{panel}_{name}": Metric("fraction of amino acids", True) for name in SCORES}


class GeneCompletion(ModelTask):
    """The task, of a model with `generate` (of which it uses `num_samples`) and `max_bases`.

    A figure of a panel is the mean over its genes of the means over completions; its interval is of the sampling alone,
    for these genes. A gene that with its completion exceeds `max_bases` is not run, nor are eukaryotes without
    exonerate. `rows` of the options are completions of a gene.
    """

    name, metric = "gene_completion", "prokaryote_recovery"
    metrics: ClassVar = {
        **_unit("prokaryote"),
        **_unit("eukaryote"),
        "identity": Metric("fraction of amino acids", higher_is_better=True),  # if all 12 genes were run
    }

    def __init__(
        self,
        options: Options,
        *,
        samples: int = SAMPLES,
        top_k: int = TOP_K,
        temperatures: Mapping[str, float] = TEMPERATURES,
        mode: str = "token",
        eukaryote_prompt: str = "gene",
        exonerate: str = "exonerate",
    ):
        """`mode` is that of `LM.generate`: whether the four are tokens or bases; `exonerate` is the program."""
        self.seed, self.samples = options.seed, min(samples, options.rows or samples)
        self.sampling, self.temperatures = {"top_k": top_k, "mode": mode}, temperatures
        self.genes = {p: options.file(f"downstream/gene_completion/{p}_genes.csv.gz", SOURCE) for p in PANELS}
        self.exonerate = shutil.which(exonerate) if installed(f"program {exonerate}") else None
        self.eukaryote_prompt = eukaryote_prompt

    def questions(self, panel: str) -> list[Question]:
        """Those of a panel, in the order of its file.

        Raises:
          DataError: if it cannot be read, a column is missing, or a start is no base of the sequence.
        """
        found = table.read(self.genes[panel])
        columns = [found.values(x, "column") for x in ("gene", "genomic_sequence", "reference_protein")]
        if panel == "eukaryote":
            return [eukaryote(*row, self.exonerate, self.eukaryote_prompt) for row in zip(*columns, strict=True)]
        for row, start in enumerate(starts := found.values("cds_start", "column")):
            if not (start.isdecimal() and int(start) < len(columns[1][row])):
                found.refuse(row, "cds_start", "is not a 0-based position in genomic_sequence")
        return [prokaryote(*row, int(start)) for *row, start in zip(*columns, starts, strict=True)]

    def __call__(self, model, progress: Progress = silent) -> Result:
        """See `ModelTask`."""
        questions, missing = self.questions("prokaryote"), []
        if self.exonerate is None:
            missing.append("eukaryotes, as exonerate is not installed (conda install -c bioconda exonerate)")
        else:
            questions += self.questions("eukaryote")
        longest = model.max_bases or math.inf
        fitting = [x for x in questions if len(x.prompt) + x.num_bases <= longest]
        if long := [f"{x.gene} ({len(x.prompt) + x.num_bases:,})" for x in questions if x not in fitting]:
            missing.append(f"what exceeds the context of {longest:,} bases with its completion: {', '.join(long)}")
        if not fitting:
            raise NotRun(f"not run: {'; '.join(missing)}")
        found, baselines = [], {name: [] for name in BASELINES}
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:  # exonerate is a process of its own
            for number, question in enumerate(fitting):
                texts = model.generate(
                    [question.prompt], question.num_bases, num_samples=self.samples, seed=self.seed,
                    temperature=self.temperatures[question.panel], **self.sampling,
                )  # fmt: skip
                found.append(Completed(question, texts, np.array([*pool.map(question.judged, texts)])))
                for name, complete in BASELINES.items():
                    rng = np.random.default_rng([self.seed, number])
                    texts = complete(question, min(self.samples, _BASELINE_SAMPLES), rng)
                    baselines[name].append(Completed(question, texts, np.array([*pool.map(question.judged, texts)])))
                progress(number + 1, len(fitting))
        metrics, intervals = _means(found, self.seed)
        compared = {name: _means(several)[0] for name, several in baselines.items()}
        genes = {x.question.gene: x.summary() for x in found}
        complete = sum(x.question.panel == "prokaryote" for x in found) == PANELS["prokaryote"]
        note = (
            "The published figures are identities. Those of prokaryotes are of the same genes and rules, but for Evo 2 "
            "the four most likely tokens are all four bases. Those of eukaryotes and of all genes do not compare: the "
            "published prompts of eukaryotes end before the genes, and those here hold 30 % of what the windows encode."
        )
        return Result(
            metrics,
            counts={"genes": len(found), "completions": sum(len(x.texts) for x in found)},
            intervals=intervals,
            baselines=compared,
            breakdown={"gene": genes},
            published=figures(comparable=complete and self.samples == SAMPLES),
            note=" ".join([note] + [f"Not run: {'; '.join(missing)}."] * bool(missing)),
            predictions={
                "gene": [x.question.gene for x in found for _ in x.texts],
                "panel": [x.question.panel for x in found for _ in x.texts],
                "recovery": [float(recovery) for x in found for recovery in x.scores[:, 0]],
                "identity": [float(identity) for x in found for identity in x.scores[:, 1]],
                "completion": [text for x in found for text in x.texts],
                "row": [f"{x.question.gene} {i}" for x in found for i in range(len(x.texts))],
                self.metric: [
                    float(recovery) if x.question.panel == "prokaryote" else None
                    for x in found
                    for recovery in x.scores[:, 0]
                ],
            },
            paired=Paired("mean", self.metric, (self.metric,), rows="row"),  # all genes have as many completions
            figures={"by_gene": lambda: _figure(metrics, compared, genes)},
        )


def figures(comparable: bool) -> tuple[Published, ...]:
    """What Evo 2 reports; `comparable` if all prokaryotes were run with as many completions."""
    of = {"prokaryote": "prokaryote_identity", "eukaryote": "eukaryote_identity", "all": "identity"}
    return tuple(
        figure
        for task, metric in of.items()
        for figure in published.of(
            "gene_completion", task, "amino_acid_recovery_percent", as_metric=metric,
            comparable=comparable and task == "prokaryote",
        )
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Completed:
    """The completions of a gene, with recovery and identity of each, float64 [completions, 2]."""

    question: Question
    texts: list[str]
    scores: np.ndarray

    def summary(self) -> dict[str, float]:
        """The metrics of the gene; the standard error is of its recovery, over completions."""
        recovery, identity = self.scores.T
        known = identity[np.isfinite(identity)]
        error = recovery.std(ddof=1) / len(recovery) ** 0.5 if len(recovery) > 1 else math.nan
        return {
            f"{self.question.panel}_recovery": float(recovery.mean()),
            f"{self.question.panel}_identity": float(known.mean()) if len(known) else math.nan,
            "standard_error": float(error),
            "completions": len(recovery),
            "not_aligned": len(recovery) - len(known),
        }


def _means(found: list[Completed], seed: int | None = None) -> tuple[dict[str, float], dict[str, tuple | None]]:
    """The metrics of all genes, each gene alike, and with a seed their intervals; NaN if one gene has none."""
    metrics, intervals = {}, {}
    for name in GeneCompletion.metrics:
        panel, _, score = name.rpartition("_")
        of = [x for x in found if panel in ("", x.question.panel)]
        metrics[name] = math.nan
        if not of or (not panel and len(of) < sum(PANELS.values())):
            continue
        values = np.concatenate([x.scores[:, SCORES.index(score)] for x in of])
        gene = np.repeat(np.arange(len(of)), [len(x.texts) for x in of])
        known = np.isfinite(values)
        if len(np.unique(gene[known])) < len(of):
            continue  # of one gene nothing is aligned
        over_genes = mean(values[known], gene[known])
        metrics[name] = float(over_genes(np.ones((1, known.sum())))[0])
        if seed is not None:
            intervals[name] = interval(over_genes, (known.sum(),), seed=seed)
    return metrics, intervals


def _figure(metrics: Mapping[str, float], compared: Mapping[str, Mapping[str, float]], genes: Mapping[str, Mapping]):
    name = "prokaryote_recovery" if math.isfinite(metrics["prokaryote_recovery"]) else "eukaryote_recovery"
    values = {"model": metrics[name], **{x.replace("_", " "): row[name] for x, row in compared.items()}}
    panels = {x: {gene: row[f"{x}_recovery"] for gene, row in genes.items() if f"{x}_recovery" in row} for x in PANELS}
    label = f"recovery (fraction of amino acids; above the line: {name.partition('_')[0]}s)"
    return evaluation.groups("Gene completion", label, values, {x: several for x, several in panels.items() if several})


ENTRIES = (Entry("gene_completion", lambda config: GeneCompletion(Options.of(config)), quick=4),)
