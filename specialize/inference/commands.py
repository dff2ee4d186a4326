"""`specialize sample` and `label`: a T5 checkpoint as the teacher."""

import argparse

from specialize import config
from specialize.corpus import options
from specialize.inference import prompts


def register(subparsers: options.Commands) -> None:
    """Adds `sample` and `label` to the command line."""
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
    _add_teacher(command)
    options.add_answer_type(command.add_argument_group("verification"))
    command.set_defaults(run=_sample)
    _register_label(subparsers)


def _register_label(subparsers: options.Commands) -> None:
    command = subparsers.add_parser(
        "label",
        help="a T5 checkpoint answers prompts: a corpus with its exact top-k",
        description="Decodes answers to prompts with a checkpoint that has the "
        "student's vocabulary, as gin files say, into a corpus of plain texts with the "
        "checkpoint's exact probabilities. With the student's initial weights, this is "
        "what a specialist must not forget: train on it beside its corpus, as "
        "MIXTURE_OR_TASK_NAME = {'CORPUS': 85, 'OUT': 15} says. A rerun resumes "
        "where a killed one stopped.",
    )
    config.add_flags(command)
    config.add_process_flags(command)
    command.add_argument(
        "--prompts",
        required=True,
        metavar="FILE",
        help=prompts.HELP,
    )
    options.add_output(command)
    options.add_k(command)
    _add_teacher(command)
    command.set_defaults(run=_label)


def _add_teacher(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--teacher",
        default=None,
        help="name of the teacher on the card (default: CHECKPOINT_PATH)",
    )


def _label(flags: argparse.Namespace) -> int:
    from specialize import sharding

    sharding.join(flags)
    config.from_flags(flags, entry="specialize.inference.labelling.label")
    from specialize.inference import labelling

    manifest = config.call(
        labelling.label,
        prompts_path=flags.prompts,
        folder=options.folder(flags),
        top_logprobs=flags.k,
        name=flags.teacher,
    )
    return 0 if manifest is None else options.show(manifest)


def _sample(flags: argparse.Namespace) -> int:
    from specialize import sharding

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
        upload_every_s=flags.upload_every,
    )
    if jax.process_index() == 0:
        return panel.say_what_is_missing(tally)
    return int(tally.planned > tally.cached + tally.done)
