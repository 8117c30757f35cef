"""Every test runs on 8 simulated CPU devices, with matrix products in full float32.

By `jax.config`, not the environment: a command that a test starts in a process of its own sees the machine as its user
would.
"""

from collections import Counter

import jax
import numpy as np

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_default_matmul_precision", "highest")


def pytest_terminal_summary(terminalreporter):
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ").split(":")[0] for report in skipped)
    listed = "; ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    terminalreporter.write_line(f"skipped: {len(skipped)}" + (f" ({listed})" if listed else ""))


def random_params(config, seed=0):
    """Parameters of a decoder drawn by numpy, which saves compiling `init`: norms 1, the rest as wide as it says."""
    from flax import linen as nn

    from gener_jax.model import decoder

    boxed = jax.eval_shape(lambda: decoder.init(decoder.Decoder(config), jax.random.key(0)))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if "scale" in jax.tree_util.keystr(path):
            return np.ones(leaf.shape, np.float32)
        return rng.normal(scale=config.initializer_range, size=leaf.shape).astype(np.float32)

    return jax.tree.map(jax.numpy.asarray, jax.tree_util.tree_map_with_path(draw, nn.unbox(boxed)))
