"""The training step compiled for devices that this machine need not have, and what the compiler made of it."""

import collections
import re
import time

import jax

from data_pipeline.errors import counted, one_line
from gener_jax.config import Config
from gener_jax.data.loader import arrays
from gener_jax.model import kernels, memory, sharding
from gener_jax.model.sharding import TOKENS, batch_sharding, mesh_of
from gener_jax.runtime import program
from gener_jax.runtime.errors import ConfigError
from gener_jax.training import objectives
from gener_jax.training.step import abstract_state, make_train_step


def compiled_step(config: Config, devices: list) -> jax.stages.Compiled:
    """The step of pre-training that `train` runs on such devices, with the objective of the last one; runs nothing.

    Args:
      config: of the run.
      devices: as of `runtime.targets`; there must be as many as its mesh has.

    Raises:
      ConfigError: if the mesh does not fit the devices, or the step does not compile, for example for lack of memory.
    """
    mesh = mesh_of(config, devices)
    shape, placed = (config.train.batch_size, config.data.context_length), batch_sharding(mesh)
    batch = {name: jax.ShapeDtypeStruct(shape, dtype, sharding=placed) for name, dtype in arrays(config.data).items()}
    with sharding.on(mesh):
        objective = objectives.of_config(config, config.tokenizer.make())(config.train.num_steps)
        step = make_train_step(config, mesh, objective, dict.fromkeys(batch, TOKENS))
        lowered = step.lower(abstract_state(config, mesh), {}, batch)
        try:
            return lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            line = next((x for x in str(error).splitlines() if "memory" in x), str(error).splitlines()[0])
            raise ConfigError(f"{devices[0].device_kind}: does not compile: {line.strip()[:300]}") from error


def attention(text: str) -> tuple[dict[str, dict[str, int]], bool]:
    """How often a step runs the forward and backward calls of each attention kernel; whether that is exact.

    It is not if a call is in a loop whose number of iterations is unknown: then it is so often at least.
    """
    found, exact = collections.defaultdict(lambda: {"forward": 0, "backward": 0}), True
    for call in program.instructions(text, ("custom-call",)):
        target, operation = (
            match[1] if (match := re.search(rf'{field}="([^"]*)"', call.line)) else ""
            for field in ("custom_call_target", "op_name")
        )
        if which := kernels.called(target, operation):
            name, direction = which
            found[name][direction] += call.times
            exact = exact and call.exact
    return dict(found), exact


def figures(config: Config, devices: list) -> dict:
    """Compiles the step; what the compiler says of it, per device and step, as plain values.

    If jax cannot read the compiled program, `unread` says why, and what is counted in it is None.

    Raises:
      ConfigError: as `compiled_step`.
    """
    began = time.perf_counter()
    compiled = compiled_step(config, devices)
    took, stats = time.perf_counter() - began, compiled.memory_analysis()
    unread = calls = exact = sent = None
    try:
        text = compiled.as_text() or ""
        calls, exact = attention(text)
        sent = {
            kind: {"calls": each.calls, "sent_bytes": round(each.sent)}
            for kind, each in sorted(program.traffic(text, len(devices)).items())
        }
    except (jax.errors.JaxRuntimeError, ValueError) as error:  # as of a libtpu of another version than jax's
        calls, exact, unread = None, None, one_line(error)
    return {
        "peak_gib": stats.peak_memory_in_bytes / memory.GIB,
        "arguments_gib": stats.argument_size_in_bytes / memory.GIB,
        "temporary_gib": stats.temp_size_in_bytes / memory.GIB,
        "kernels": calls,
        "kernels_exact": exact,
        "collectives": sent,
        "seconds": round(took, 1),
        **({} if unread is None else {"unread": unread}),
    }


def described(found: dict, config: Config, formula: dict, target: str) -> str:
    """Those figures as text, beside those `by formula` of the same configuration (`planning.described`)."""
    peak, by_formula = found["peak_gib"], formula["peak_gib"]
    head = [
        f"compiled for {target} in {found['seconds']:.0f} s, not run",
        f"  per device  {peak:.2f} GiB at most, by formula {by_formula:.2f} ({by_formula / peak - 1:+.0%}): "
        f"arguments {found['arguments_gib']:.2f}, temporary {found['temporary_gib']:.2f}",
    ]
    if "unread" in found:
        why = (
            f"this jax cannot read the compiled program: {found['unread']}; the extras tpu and cuda have its compilers"
        )
        return "\n".join([*head, f"  attention and sends are not known: {why}"])
    layers = config.model.num_hidden_layers * config.train.accumulate
    at_least = "" if found["kernels_exact"] else "at least "
    attended = [
        f"{name} {at_least}"
        + ", ".join(f"{number} {way} ({number / layers:g} per layer)" for way, number in calls.items())
        for name, calls in found["kernels"].items()
    ]
    sent = dict(formula["sent_gib_per_step"])
    kinds = [
        f"{kind} {each['sent_bytes'] / memory.GIB:.2f} in {counted(each['calls'], 'call')}"
        + (f", by formula {sent[kind]:.2f}" if sent.get(kind) else "")
        for kind, each in found["collectives"].items()
    ]
    return "\n".join(
        [
            *head,
            f"  attention   {'; '.join(attended) or 'without a kernel'}",
            f"  sends       GiB per step: {'; '.join(kinds) or 'nothing'}",
        ]
    )
