"""Every test runs on 8 simulated CPU devices, with matrix products in full float32.

By `jax.config`, not the environment: a command that a test starts in a process of its own sees the machine as its user
would.
"""

from collections import Counter

import jax

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_default_matmul_precision", "highest")


def pytest_terminal_summary(terminalreporter):
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ").split(":")[0] for report in skipped)
    listed = "; ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    terminalreporter.write_line(f"skipped: {len(skipped)}" + (f" ({listed})" if listed else ""))
