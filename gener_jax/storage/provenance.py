"""What a model was trained on and what that gave: `provenance.json`, in a run's folder and in what is exported from it.

Training writes it and a model card is made of it. A model without the file says nothing about its training: what it
has seen is unknown.
"""

import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from data_pipeline.files import write_text
from data_pipeline.sequence.tokenizer import BOS, NUM_SPECIAL, SPECIAL_IDS, SPECIAL_TOKENS
from gener_jax.runtime.errors import CheckpointError
from gener_jax.storage import pretrained, results, run_folder
from gener_jax.storage.files import read_json

FORMAT = 1
FILE = "provenance.json"


@dataclasses.dataclass(frozen=True)
class Provenance:
    """The training of a model.

    Attributes:
      data: what it was trained on, oldest first; one object per dataset, as `data.loader.TokenStream.provenance`, with
        `special_tokens`, the names of those that its stream may contain, None if unknown. Of a model that training
        started from and that has no provenance: its `name`, with `special_tokens` None.
      step: steps done; None in a run's folder, which has several checkpoints.
      tokens: tokens trained on in these steps.
      held_out: what the task held_out found for it: its `step`, `bits_per_base`, counts, and the bits per base of
        baselines; None if unknown, and in a run's folder, whose `results.json` has it.
      versions: of the packages that trained it.
      license: of the weights, as Hugging Face abbreviates it; None if none is stated.
    """

    data: tuple[dict, ...]
    step: int | None = None
    tokens: int | None = None
    held_out: dict | None = None
    versions: dict | None = None
    license: str | None = None

    @property
    def special_tokens(self) -> frozenset[str] | None:
        """The special tokens that the training data may contain; None if that is unknown."""
        seen = [x.get("special_tokens") for x in self.data]
        return None if None in seen or not seen else frozenset().union(*seen)

    @property
    def context_length(self) -> int | None:
        """The most tokens of a window that it was trained on; None if that is unknown."""
        lengths = [x.get("context_length") for x in self.data]
        return None if None in lengths or not lengths else max(lengths)

    @property
    def records(self) -> str:
        """The records of the training data, as a person reads them: their number, and the accessions that are kept."""
        names = [name for data in self.data for name in data.get("accessions", ())]
        number = sum(data.get("records", 0) for data in self.data)
        known = ", ".join([*names, *["…"] * (number > len(names))])
        return f"{number:,} records ({known})" if names else "unknown"

    @property
    def mask_documents(self) -> bool:
        """Whether no <s> saw the sequence before it in any of the data."""
        return bool(self.data) and all(x.get("mask_documents") for x in self.data)


def read(folder: Path) -> Provenance | None:
    """The provenance of the model in a folder, of either kind; None if the folder has none.

    Raises:
      CheckpointError: if it cannot be read, or is of another version.
    """
    path = folder / FILE
    if not path.exists():
        return None
    values = read_json(path)
    if (found := values.pop("format", None)) != FORMAT:
        raise CheckpointError(path, f"has format {found!r}, not {FORMAT}", name="format", value=found)
    kinds = {"data": list, "step": int, "tokens": int, "held_out": dict, "versions": dict, "license": str}
    for name, value in {"data": None, **values}.items():
        if name not in kinds or not isinstance(value, kinds[name]):
            raise CheckpointError(path, f"has an unknown {name}", name=name, value=value)
    data = values["data"]
    if not all(isinstance(x, dict) and _tokens(x.get("special_tokens")) for x in data):
        raise CheckpointError(path, "has unknown data", name="data", value=data)
    return Provenance(**{**values, "data": tuple(data)})


def _tokens(names) -> bool:
    return names is None or (isinstance(names, list) and all(name in list(SPECIAL_IDS) for name in names))


def unseen(provenance: Provenance, rows: Iterable[np.ndarray], *, framed: bool = False) -> set[str]:
    """What rows of ids hold that a model with this training cannot have learned, as predicates about the model.

    `framed`: the last <s> of a row stands for the sequence before it, as embeddings in v2 have it.
    """
    problems, seen = set(), provenance.special_tokens
    for ids in rows:
        if seen is not None:
            others = {SPECIAL_TOKENS[i] for i in ids[ids < NUM_SPECIAL].tolist()} - seen
            problems |= {f"was trained on data without {name}, so it means nothing here" for name in others - {"<oov>"}}
            if "<oov>" in others:
                problems.add(
                    "was trained on data without <oov>, the token of k-mers with an unknown base and, in embeddings, "
                    "of bases left over at the end (remainder): it adds noise"
                )
            if ((ids[1:] == BOS) & (ids[:-1] == BOS)).any():
                problems.add("was trained on data without two <s> in a row: leave out <s>, which is prepended")
        if framed and provenance.mask_documents and len(ids) > 1 and ids[-1] == BOS:
            problems.add(
                "was trained with data.mask_documents, so its <s> knows nothing of the sequence before it: embed with "
                "prompt_convention v1 or pooling mean"
            )
    return problems


def write(folder: Path, provenance: Provenance) -> None:
    """Writes it into a folder."""
    values = {name: value for name, value in vars(provenance).items() if value is not None}
    write_text(folder / FILE, json.dumps({"format": FORMAT, **values}, indent=2) + "\n")


def begin(folder: Path, data: dict, init_from: str | None, *, resumes: bool) -> Provenance:
    """Records in a run's folder that it is trained on `data` from here on, and returns its provenance.

    A run that `resumes` was trained on other data before if they are recorded; a new one has the data of the model that
    it starts from.
    """
    known = read(folder) if resumes else None
    if known is not None:
        before = known.data
    elif resumes:  # it began before there was this file
        before = ({"special_tokens": None},)
    elif init_from is not None:
        base = pretrained.find(init_from)
        model = read(base)
        before = ({"name": pretrained.read_spec(base).name, "special_tokens": None},) if model is None else model.data
    else:
        before = ()
    found = dataclasses.replace(known or Provenance(()), data=before if data in before[-1:] else (*before, data))
    if found != known:
        write(folder, found)
    return found


def of_model(folder: Path, step: int | None) -> Provenance | None:
    """The provenance of one checkpoint: with its step, the tokens it has seen and its held-out result.

    That of a folder with a model alone is its file's; None if it has none.
    """
    known = read(folder)
    if known is None or pretrained.is_published(folder) or not run_folder.holds_run(folder):
        return known
    config, held_out = run_folder.read(folder), _held_out(folder, step)
    tokens = step * config.train.batch_size * config.data.context_length
    return dataclasses.replace(
        known, step=step, tokens=tokens if config.finetune.problem is None else None, held_out=held_out,
        versions=(run_folder.starts(folder) or [{}])[-1].get("versions"),
    )  # fmt: skip


def _held_out(folder: Path, step: int) -> dict | None:
    """The held-out result of one checkpoint of a run: that of `results.json`, or what its checkpoint was kept by."""
    if (folder / results.FILE).exists():
        for found in results.read(folder).evaluations:
            if found.task == "held_out" and found.model.step == step:
                baselines = {name: values["bits_per_base"] for name, values in found.baselines.items()}
                return {"step": step, "bits_per_base": found["bits_per_base"], **found.counts, **baselines}
    measured = run_folder.read_metrics(folder, step)
    if measured["metric"] == "held_out.bits_per_base" and measured["value"] is not None:
        return {"step": step, "bits_per_base": measured["value"]}
    return None
