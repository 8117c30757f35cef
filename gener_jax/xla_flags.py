"""Prints XLA flags for GPUs or TPUs, to be set before a run.

    eval "$(gener-jax xla_flags gpu)"

What each flag is for is written to standard error, which eval does not read.
Their effect has not been measured; gener-jax benchmark train measures it, with
and without them.
"""

import sys

from data_pipeline import cli

FLAGS = {
    "gpu": {  # XLA_FLAGS
        "--xla_gpu_enable_latency_hiding_scheduler=true": "overlap collectives with computation",
        "--xla_gpu_enable_pipelined_all_gather=true": "gather the next layer's weights ahead of time",
        "--xla_gpu_enable_pipelined_reduce_scatter=true": "scatter the previous layer's gradients during the next",
        "--xla_gpu_enable_pipelined_all_reduce=true": "the same for gradients summed over data",
        "--xla_gpu_all_gather_combine_threshold_bytes=134217728": "fewer, larger gathers: one layer at a time",
        "--xla_gpu_reduce_scatter_combine_threshold_bytes=134217728": "fewer, larger scatters",
    },
    "tpu": {  # LIBTPU_INIT_ARGS
        "--xla_tpu_enable_async_collective_fusion=true": "overlap collectives with computation",
        "--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true": "the same for the all-gathers of fsdp",
        "--xla_tpu_overlap_compute_collective_tc=true": "compute on the matrix units while links transfer",
    },
}
VARIABLE = {"gpu": "XLA_FLAGS", "tpu": "LIBTPU_INIT_ARGS"}


def main(argv=None) -> None:
    """Prints a shell command that adds the platform's flags to the environment; to standard error, their purposes."""
    parser = cli.Parser(__doc__)
    parser.add_argument("platform", choices=sorted(FLAGS), help="where the run will be")
    platform = parser.parse_args(argv).platform
    name = VARIABLE[platform]
    for flag, purpose in FLAGS[platform].items():
        print(f"# {flag}: {purpose}", file=sys.stderr)
    print(f'export {name}="${{{name}:-}} {" ".join(FLAGS[platform])}"')


if __name__ == "__main__":
    main()
