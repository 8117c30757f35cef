"""Runs every test on 8 simulated CPU devices, with matrix products in full float32.

These are set by `jax.config`, not the environment, so that a command that a test starts in another process sees the
devices that its user would. All processes of one pytest call share the compiled programs in a temporary folder.
Compilation takes most of the tests' time, so LLVM optimises programs only for tests that use `compiled_in_full`, and
never for such commands, and XLA of jax 0.10 emits fused operations in its older way; its own optimisations are always
on.
"""

import atexit
import contextlib
import os
import shutil
import signal
import tempfile
from collections import Counter
from importlib.metadata import version

_COMPILED = "JAX_COMPILATION_CACHE_DIR"
if _COMPILED not in os.environ:  # the first process; the others inherit the folder
    os.environ[_COMPILED] = tempfile.mkdtemp(prefix="gener_jax_compiled_")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    atexit.register(shutil.rmtree, os.environ[_COMPILED], ignore_errors=True)

# Halves what compilation costs; jax 0.12 has no such flag. XLA reads it once, so `pytest_sessionstart` gives the tests
# the user's flags back.
XLA_FLAGS = "--xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else ""
_OF_USER = os.environ.get("XLA_FLAGS")
os.environ["XLA_FLAGS"] = f"{_OF_USER or ''} {XLA_FLAGS}".strip()

import jax  # noqa: E402 (it reads the environment)
import numpy as np  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_default_matmul_precision", "highest")
jax.config.update("jax_disable_most_optimizations", True)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with it ignored


def pytest_sessionstart(session):
    jax.jit(lambda x: x)(np.zeros(1)).block_until_ready()
    if _OF_USER is None:
        del os.environ["XLA_FLAGS"]
    else:
        os.environ["XLA_FLAGS"] = _OF_USER


_DEVICES = {"devices": jax.devices, "local_devices": jax.local_devices}


@contextlib.contextmanager
def _devices(number):
    first = _DEVICES["devices"]()[:number]
    with pytest.MonkeyPatch.context() as patch:
        for name in _DEVICES:
            patch.setattr(jax, name, lambda *_: first)
        yield


@pytest.fixture(scope="module")
def one_device():
    """Until the end of a file, JAX has one of the simulated devices: a whole run then takes a third of the time."""
    with _devices(1):
        yield


@pytest.fixture(scope="module")
def two_devices():
    """Until the end of a file, it has two: the smallest mesh, for whole runs."""
    with _devices(2):
        yield


@pytest.fixture
def eight_devices(one_device, monkeypatch):
    """For a test in such a file, all of them."""
    for name, function in _DEVICES.items():
        monkeypatch.setattr(jax, name, function)


@pytest.fixture
def compiled_in_full():
    """LLVM optimises programs, as for a user: for tests of memory or cost, and for long computations."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture
def x64():
    """64-bit types, as JAX_ENABLE_X64=1 enables them for a program, in all of its threads."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture
def gpu(monkeypatch):
    """Attention is chosen, and cuDNN's support checked, as on an H100, so that programs can be lowered for CUDA."""
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    from gener_jax.model import kernels

    monkeypatch.setattr(kernels, "platform", lambda: "gpu")
    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(cudnn, "is_cuda_compute_capability_equal", lambda capability: False)


def pytest_terminal_summary(terminalreporter):
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ").split(":")[0] for report in skipped)
    listed = "; ".join(f"{count} {reason}" for reason, count in reasons.most_common())
    terminalreporter.write_line(f"skipped: {len(skipped)}" + (f" ({listed})" if listed else ""))


def random_params(config, seed=0):
    """Random parameters of a decoder, drawn by numpy to avoid compiling `init`: norms 1, the others normal with the
    standard deviation `initializer_range`."""
    from flax import linen as nn

    from gener_jax.model import decoder

    boxed = jax.eval_shape(lambda: decoder.init(decoder.Decoder(config), jax.random.key(0)))
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        if "scale" in jax.tree_util.keystr(path):
            return np.ones(leaf.shape, np.float32)
        return rng.normal(scale=config.initializer_range, size=leaf.shape).astype(np.float32)

    return jax.device_put(jax.tree_util.tree_map_with_path(draw, nn.unbox(boxed)))  # `asarray` compiles
