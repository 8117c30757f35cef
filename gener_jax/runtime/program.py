"""What a compiled program runs, and how often, read from its text (XLA's HLO after all its passes).

The layers of a model are one loop, so an instruction in a loop's body counts as often as the loop runs. Compilers for
GPUs write that beside it (`known_trip_count`). Those for TPUs write it nowhere, so there it is the constant of a
condition `i < constant`, as if i began at 0, as it does in a scan.
Where there is neither, since the number depends on the data, a body counts once, and `Instruction.exact` is false. Of a
conditional each branch counts.
"""

import math
import re
from collections.abc import Collection, Iterator
from typing import NamedTuple

COLLECTIVES = (
    "all-gather",
    "reduce-scatter",
    "all-reduce",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
# A tuple's shape has spaces of its own, but no word in it is followed by a parenthesis after a space.
_INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?[\w.\-]+ = (?P<shape>.*?) (?P<kind>[a-z][\w\-]*)\(")
_COMPUTATION = re.compile(r"(?P<entry>ENTRY )?%?(?P<name>[\w.\-]+) \(.*\{$")
_CALLED = re.compile(r"\b(?:calls|to_apply|condition|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"\b(?:branch_computations|called_computations)=\{([^}]*)\}")
_LOOP = re.compile(r"\b(?:condition=%?([\w.\-]+), )?body=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\s*\{"n":\s*"(\d+)"\}')
_LESS = re.compile(r"\s+ROOT .* compare\(%?[\w.\-]+, %?([\w.\-]+)\), direction=LT\b")
# A TPU's reduce-scatter: a computation of an all-reduce and a slice of its result.
_SCATTER = "all-reduce-scatter"


class Instruction(NamedTuple):
    """An instruction of a program."""

    kind: str  # such as custom-call; an asynchronous start as the operation that it starts
    line: str
    times: int  # how often a device runs it
    exact: bool  # false: at least so often


class Traffic(NamedTuple):
    """What a device does with one kind of collective operation in a run of a program."""

    calls: int
    sent: float  # bytes, see `traffic`


def instructions(text: str, kinds: Collection[str]) -> Iterator[Instruction]:
    """The instructions of these kinds in a program's text, each as often as the program runs it.

    Raises:
      ValueError: if the text has no entry computation.
    """
    computations, entry, lines = {}, None, None
    for line in text.splitlines():
        if lines is not None:
            if line == "}" or line.startswith("}, execution_thread="):
                lines = None
            elif line[:1].isspace():
                lines.append(line)
            elif lines:  # the rest of an instruction with an attribute of several lines
                lines[-1] += line
        elif match := _COMPUTATION.match(line):
            lines = computations[match["name"]] = []
            entry = match["name"] if match["entry"] else entry
    if entry is None:
        raise ValueError("no program: the text has no entry computation")

    counted = "known_trip_count" in text

    def limit(condition) -> int | None:
        lines = computations.get(condition, [])
        compared = next((match[1] for line in lines if (match := _LESS.match(line))), "")
        constant = re.compile(rf"\s+%?{re.escape(compared)} = s32\[\]\S* constant\((\d+)\)")
        return next((int(match[1]) for line in lines if (match := constant.match(line))), None)

    def visit(name, times, exact):
        if name not in computations:
            raise ValueError(f"the text has no computation {name}, which it calls")
        for line in computations[name]:
            match = _INSTRUCTION.match(line)
            if match is None:
                continue
            kind = match["kind"].removesuffix("-start")
            if kind == "all-reduce" and name.startswith(_SCATTER):
                kind = "reduce-scatter"
            if kind in kinds:
                yield Instruction(kind, line, times, exact)
            for other in _CALLED.findall(line) + [x.strip(" %") for x in ",".join(_BRANCHES.findall(line)).split(",")]:
                if other:
                    yield from visit(other, times, exact)
            for condition, body in _LOOP.findall(line):
                given = _TRIPS.search(line)
                trips = int(given[1]) if given else None if counted else limit(condition)
                yield from visit(body, times * (1 if trips is None else trips), exact and trips is not None)

    yield from visit(entry, 1, True)


def traffic(text: str, num_devices: int) -> dict[str, Traffic]:
    """What each device sends in a run of a program, by kind of collective operation.

    As of ring algorithms in groups of n devices: of a result of x bytes an all-gather and an all-to-all send
    x (n − 1) / n, a reduce-scatter x (n − 1), an all-reduce 2 x (n − 1) / n, any other x. These are the rules of
    `training.planning.collectives`.

    Raises:
      ValueError: if a group of devices is written in an unknown way.
    """
    found = {}
    for kind, line, times, _ in instructions(text, COLLECTIVES):
        size, n = _result_bytes(line), _group(line, num_devices)
        if kind == "reduce-scatter" and _INSTRUCTION.match(line)["kind"].startswith("all-reduce"):
            size //= n  # the slice that is kept
        each = {
            "all-gather": (n - 1) / n,
            "all-to-all": (n - 1) / n,
            "ragged-all-to-all": (n - 1) / n,
            "reduce-scatter": n - 1,
            "all-reduce": 2 * (n - 1) / n,
        }.get(kind, 1)
        before = found.get(kind, Traffic(0, 0.0))
        found[kind] = Traffic(before.calls + times, before.sent + times * each * size)
    return found


def _result_bytes(line: str) -> int:
    """The size of the result of a collective; a start gives its operands too, but that of an all-reduce."""
    match = _INSTRUCTION.match(line)
    shape = re.sub(r"\{[^}]*\}|/\*.*?\*/", "", match["shape"])  # without layouts and comments
    if match["kind"].endswith("-start") and match["kind"] != "all-reduce-start":
        shape = _elements(shape)[1]
    return sum(
        math.prod(int(size) for size in sizes.split(",") if size) * _bits(dtype) // 8
        for dtype, sizes in re.findall(r"\b([a-z]\w*)\[([\d,]*)\]", shape)
    )


def _elements(shape: str) -> list[str]:
    """The elements of a tuple's shape, which may be tuples."""
    parts, depth = [""], 0
    for char in shape.strip()[1:-1]:
        depth += (char in "([") - (char in ")]")
        if char == "," and not depth:
            parts.append("")
        else:
            parts[-1] += char
    return parts


def _bits(dtype: str) -> int:
    number = re.search(r"\d+", dtype)
    return int(number[0]) if number else 8 if dtype == "pred" else 0


def _group(line: str, num_devices: int) -> int:
    """The number of devices that take part in a collective together; of a permutation it does not matter."""
    text = line.partition("replica_groups=")[2]
    if not text:
        return num_devices
    if match := re.match(r"\{(?:\{([\d,]*)\}[^}]*)*\}", text):  # {{0,1},{2,3}}
        return len(match[1].split(",")) if match[1] else num_devices
    if match := re.match(r"\[\d+,(\d+)\]<=", text):  # [groups,devices]<=[shape]
        return int(match[1])
    if match := re.match(r"mesh\[(.*?)\] \{(.*?)\}", text):  # mesh['a'=2,'b'=4] {'b','a':(1)2}
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", match[1]))
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", match[2])
        return math.prod(int(part or sizes[name]) for name, part in axes)
    raise ValueError(f"cannot read the devices of a collective: replica_groups={text[:60]}")
