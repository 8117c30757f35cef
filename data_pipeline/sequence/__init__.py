"""Sequences in memory: bases, annotated records, locations, codons, k-mers and tokens."""
