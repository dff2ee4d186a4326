"""`python -m specialize.cost.bench.worker CASE SHAPE`: one case, one process."""

import sys

from specialize import memory


def main(arguments: list[str]) -> None:
    """Runs the named case (see `protocol`)."""
    memory.keep_freed()
    from specialize.cost.bench import cases, protocol
    from specialize.cost.bench.shapes import shape_named

    name, shape = arguments
    protocol.serve(lambda: cases.CASES[name](shape_named(shape)))


if __name__ == "__main__":
    main(sys.argv[1:])
