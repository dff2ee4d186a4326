"""`specialize convert` and `specialize merge`."""

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from specialize.checkpoints.convert import ConversionSummary


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds the commands."""
    parser = subparsers.add_parser(
        "convert",
        help="convert weights between Hugging Face, T5X and our runs",
        description=(
            "Converts T5 weights between Hugging Face folders, T5X checkpoints and "
            "runs of specialize, one tensor in memory at a time. Adapters are merged "
            "into the weights that they adapt. Without --target it "
            "only reads the source and prints its parameter count and fingerprint."
        ),
    )
    parser.add_argument(
        "--source",
        required=True,
        help="a Hugging Face folder or hub name, a T5X checkpoint (local or gs://), a "
        "run of specialize or one of its checkpoints, or a folder of PEFT; its format "
        "is detected",
    )
    parser.add_argument(
        "--base",
        metavar="CHECKPOINT",
        help="the weights that the source's adapters adapt, if they are not where the "
        "adapters say; those of a run need the same fingerprint",
    )
    parser.add_argument(
        "--quantized_base",
        action="store_true",
        help="add adapters that were trained on a quantised base "
        "(LORA_QUANTIZE_BASE) to what it was in training, which gives exactly the "
        "trained student (default: to the base as it was before)",
    )
    parser.add_argument("--target", help="a new or empty folder")
    parser.add_argument(
        "--to",
        choices=("hf", "t5x", "orbax", "peft"),
        help="hf: safetensors, config and tokenizer; t5x: msgpack and zarr; orbax: "
        "newer T5X; peft: the adapters of the source alone (default: t5x from Hugging "
        "Face, hf from everything else)",
    )
    _add_export(parser)
    parser.add_argument(
        "--rows",
        type=int,
        metavar="N",
        help="embedding rows of the target, such as 32100 or 32128 (default: the "
        "source's)",
    )
    parser.set_defaults(run=run, in_buckets=("target",))
    parser = subparsers.add_parser(
        "merge",
        help="interpolate or average checkpoints",
        description=(
            "Writes the weighted mean of two or more checkpoints of one network, in "
            "any of the formats that 'convert' reads, one tensor in memory at a time. "
            "Without --alpha or --weights it is the plain mean."
        ),
    )
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="CHECKPOINT",
        help="two or more: Hugging Face folders or hub names, T5X checkpoints, runs "
        "of specialize or single checkpoints of runs",
    )
    parser.add_argument(
        "--target",
        required=True,
        help="a new or empty folder; several alphas become alpha_0.1, ... in it",
    )
    shares = parser.add_mutually_exclusive_group()
    shares.add_argument(
        "--alpha",
        metavar="A",
        help="share of the second of two checkpoints, from 0 to 1; or several: "
        "first:last:step (0:1:0.1), or a list (0.2,0.5)",
    )
    shares.add_argument(
        "--weights",
        metavar="W,W,...",
        help="share of each checkpoint; their sum is 1",
    )
    parser.add_argument(
        "--to",
        choices=("hf", "t5x", "orbax"),
        default="hf",
        help="as in 'convert'",
    )
    parser.add_argument(
        "--quantized_base",
        action="store_true",
        help="as in 'convert', of the checkpoints that have such adapters",
    )
    _add_export(parser)
    parser.set_defaults(run=run_merge, in_buckets=("target",))


def _add_export(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="type of the target's weights (default: the source's)",
    )
    parser.add_argument(
        "--layers",
        choices=("unrolled", "scanned", "scalable"),
        default="unrolled",
        help="layout of a T5X target: unrolled as layers_0, layers_1, ...; scanned as "
        "in the student with scan_layers; scalable as in T5X's scalable_t5 with "
        "scan_layers",
    )
    parser.add_argument(
        "--vocabulary",
        metavar="spiece.model",
        help="SentencePiece model to make the tokenizer files from, or 'byt5' for the "
        "bytes of ByT5 (default: those of the source are copied)",
    )
    parser.add_argument(
        "--activation",
        choices=("relu", "gelu", "silu"),
        help="activation of the feed-forward block, if the source does not contain it "
        "(T5X)",
    )
    parser.add_argument(
        "--shard_size",
        type=float,
        default=5.0,
        metavar="GB",
        help="maximum size of a safetensors file in 10^9 bytes",
    )


def run(arguments: argparse.Namespace) -> int:
    """Converts, and prints the summary to standard output."""
    from specialize.checkpoints.convert import convert

    summary = convert(
        arguments.source,
        arguments.target,
        rows=arguments.rows,
        base=arguments.base,
        quantized_base=arguments.quantized_base,
        **_export(arguments),
    )
    _print(summary)
    return 0


def run_merge(arguments: argparse.Namespace) -> int:
    """Merges once, or once for every alpha, and prints the summaries."""
    from specialize.checkpoints import merging

    export = _export(arguments)
    asked = merging.requested(
        len(arguments.sources), arguments.target, arguments.alpha, arguments.weights
    )
    for target, weights in asked:
        summary = merging.merge(
            arguments.sources,
            target,
            weights=weights,
            quantized_base=arguments.quantized_base,
            keep_finished=len(asked) > 1,
            **export,
        )
        _print(summary)
    return 0


def _export(arguments: argparse.Namespace) -> dict[str, Any]:
    """How both commands write weights, as keywords of their functions.

    Raises:
        InputError: the size of a file is outside its range.
    """
    from specialize import checks

    checks.real("--shard_size", arguments.shard_size, above=0, most=10**6)
    return {
        "to": arguments.to,
        "dtype": arguments.dtype,
        "layers": arguments.layers,
        "vocabulary": arguments.vocabulary,
        "activation": arguments.activation,
        "max_shard_bytes": int(arguments.shard_size * 10**9),
    }


def _print(summary: "ConversionSummary") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("source", f"{summary.source} ({summary.source_format})")
    if summary.target is not None:
        table.add_row("target", f"{summary.target} ({summary.target_format})")
    table.add_row("parameters", f"{summary.parameters:,} in {summary.tensors} tensors")
    table.add_row("size", f"{summary.nbytes / 2**20:,.0f} MiB of {summary.dtype}")
    table.add_row("fingerprint", summary.fingerprint)
    if summary.step is not None:
        table.add_row("step", str(summary.step))
    for note in summary.notes:
        table.add_row("note", note)
    table.add_row("time", f"{summary.seconds:.1f} s")
    # Paths and notes are text: brackets in them are no markup.
    Console(soft_wrap=False, markup=False).print(table)
