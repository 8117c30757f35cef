"""A tree of parameters split into those that a run trains and those that it leaves frozen, and put together again.

A predicate over paths ("layers/mlp/gate") chooses; leaves may be arrays, shapes, or boxes with logical axes.
"""

from flax import traverse_util


def everything(path: str) -> bool:
    """The predicate of pre-training."""
    return True


def split(params, trains) -> tuple[dict, dict]:
    """The subtree of the parameters whose paths `trains` accepts, and the subtree of the others."""
    leaves = traverse_util.flatten_dict(params, sep="/")
    return tuple(
        traverse_util.unflatten_dict({path: x for path, x in leaves.items() if trains(path) == chosen}, sep="/")
        for chosen in (True, False)
    )


def merge(params, others) -> dict:
    """One tree of both; where both have a path, the leaf of `others`."""
    leaves = (traverse_util.flatten_dict(tree, sep="/") for tree in (params, others))
    return traverse_util.unflatten_dict({path: x for tree in leaves for path, x in tree.items()}, sep="/")
