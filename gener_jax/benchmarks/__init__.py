"""Benchmarks, one per file; each prints JSON lines on standard output."""
