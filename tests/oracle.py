"""The peer program that finds gene regions by Biopython, with one rule that it lacks."""

import collections
import functools
import importlib.util

from tests.data import peer_path


@functools.cache
def program():
    """The peer program as a module; skips the test if it is missing."""
    spec = importlib.util.spec_from_file_location("gene_regions", peer_path("gene_regions.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def regions(record, counts):
    """The rows of the peer program for a Biopython record; a feature without a gene that is /pseudo is of that kind."""
    pseudo = {}
    for feature in sorted(record.features, key=lambda feature: feature.type != "gene"):
        if feature.location is not None and (feature.type == "gene" or feature.type in program().KIND):
            own = feature.type != "gene" and not {"pseudo", "pseudogene"}.isdisjoint(feature.qualifiers)
            for start, end, strand in program().spans(feature, record, collections.Counter()):
                pseudo.setdefault((start, end, "+" if strand > 0 else "-"), own)
    for row in program().regions(record, counts):
        yield (*row[:4], "pseudo", *row[5:]) if pseudo[row[1:4]] else row
