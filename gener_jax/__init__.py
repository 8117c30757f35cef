"""GENERator-style DNA language models in JAX: train, evaluate, sample, load."""

__version__ = "0.1.0"


def load(folder, **options):
    """The model of a run's folder; see `gener_jax.inference.lm.load`."""
    from gener_jax.inference import lm  # jax is imported where it is needed, not with the package

    return lm.load(folder, **options)
