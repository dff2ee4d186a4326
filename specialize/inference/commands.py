"""`specialize sample`: a T5 checkpoint as the teacher."""

import argparse

from specialize import config, memory
from specialize.corpus import options


def register(subparsers: options.Commands) -> None:
    """Adds `sample` to the command line."""
    command = subparsers.add_parser(
        "sample",
        help="use a T5 checkpoint as the teacher: samples with exact top-k",
        description="Decodes solutions with a checkpoint on the mesh, as gin files "
        "say, into a response database, which 'specialize corpus export' reads. A "
        "rerun asks only for what is missing. 'specialize corpus sample' asks a "
        "teacher on a server.",
    )
    config.add_flags(command)
    config.add_process_flags(command)
    options.add_problems(command)
    options.add_asking(command)
    command.add_argument(
        "--teacher", default=None, help="its name, for cards (default: CHECKPOINT_PATH)"
    )
    options.add_answer_type(command.add_argument_group("verification"))
    command.set_defaults(run=_sample)


def _sample(flags: argparse.Namespace) -> int:
    from specialize import sharding

    memory.keep_freed()
    sharding.join(flags)
    config.from_flags(flags, entry="specialize.inference.t5_teacher.sample_checkpoint")
    import jax

    from specialize.corpus.sampling import panel
    from specialize.inference import t5_teacher

    tally = config.call(
        t5_teacher.sample_checkpoint,
        questions=t5_teacher.Questions(
            flags.problems, flags.task, flags.prompt, flags.limit
        ),
        sampling=options.sampling(flags),
        responses=flags.responses,
        top_logprobs=flags.top_logprobs,
        name=flags.teacher,
        log_every_s=flags.log_every,
    )
    if jax.process_index() == 0:
        return panel.say_what_is_missing(tally)
    return int(tally.planned > tally.cached + tally.done)
