"""`python -m specialize.cost.bench_worker CASE SHAPE`: one case in its own process."""

import sys

from specialize import memory


def main(arguments: list[str]) -> None:
    """Serves the named case (see `bench_protocol`)."""
    memory.keep_freed()
    from specialize.cost import bench_cases, bench_protocol
    from specialize.cost.bench_shapes import shape_named

    name, shape = arguments
    bench_protocol.serve(lambda: bench_cases.CASES[name](shape_named(shape)))


if __name__ == "__main__":
    main(sys.argv[1:])
