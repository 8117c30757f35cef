"""The training loop: optimizer, step, checkpoints, metrics, and what ends a run before its time."""
