"""Flags for XLA on GPUs and TPUs, to be set before a run: `eval "$(python -m gener_jax.xla_flags gpu)"`.

The one place for them. **Effect: not measured here**, for want of a device that a session could keep; each says what
it is for, and a benchmark (`python -m gener_jax.benchmarks.train`) with and without them is the way to know.
"""

import argparse

from data_pipeline import cli

FLAGS = {
    "gpu": {  # XLA_FLAGS
        "--xla_gpu_enable_latency_hiding_scheduler=true": "collectives run beside computing",
        "--xla_gpu_enable_pipelined_all_gather=true": "the next layer's weights are gathered ahead",
        "--xla_gpu_enable_pipelined_reduce_scatter=true": "the last layer's gradients are scattered behind",
        "--xla_gpu_enable_pipelined_all_reduce=true": "the same of gradients summed over data",
        "--xla_gpu_all_gather_combine_threshold_bytes=134217728": "fewer, larger gathers: a layer's at once",
        "--xla_gpu_reduce_scatter_combine_threshold_bytes=134217728": "fewer, larger scatters",
    },
    "tpu": {  # LIBTPU_INIT_ARGS
        "--xla_tpu_enable_async_collective_fusion=true": "collectives run beside computing",
        "--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true": "the gathers of fsdp too",
        "--xla_tpu_overlap_compute_collective_tc=true": "matrix units compute while links send",
    },
}
VARIABLE = {"gpu": "XLA_FLAGS", "tpu": "LIBTPU_INIT_ARGS"}


def main(argv=None) -> None:
    """Prints a shell line that adds the platform's flags to the environment."""
    parser = argparse.ArgumentParser(prog=cli.program(), description=__doc__)
    parser.add_argument("platform", choices=sorted(FLAGS))
    platform = parser.parse_args(argv).platform
    name = VARIABLE[platform]
    print(f'export {name}="${{{name}:-}} {" ".join(FLAGS[platform])}"')


if __name__ == "__main__":
    main()
