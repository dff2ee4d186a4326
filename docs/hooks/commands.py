"""The reference of the command line, from the parsers of `specialize.cli`."""

import argparse
import html
import inspect
import re
from collections.abc import Iterator

from specialize import cli

OVERVIEW = """# Commands

Every command answers `--help`. The exit status is 0 after success, 1 if the result is
negative (no plan fits, samples are missing, or another process was lost), 2 after an
error in the input, and 130 after an interrupt. An error in the input ends with one
message, which says what is wrong, where, and what to do.

A command that reads gin files also takes `--gin.NAME=VALUE` anywhere on the line. The
[macro reference](../macros.md) lists the names.

| command | what it does |
|---|---|
"""


def pages() -> dict[str, str]:
    """Markdown of the overview (`index`) and of every top-level command by name."""
    (commands,) = _nested(cli.parser())
    helps = _helps(commands)
    found = {"index": OVERVIEW}
    for name, parser in commands.choices.items():
        found["index"] += f"| [`{name}`]({name}.md) | {_sentence(helps[name])} |\n"
        found[name] = "\n".join(_command(parser, helps[name], level=1))
    return found


def _nested(parser: argparse.ArgumentParser) -> list[argparse._SubParsersAction]:
    return [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]


def _helps(commands: argparse._SubParsersAction) -> dict[str, str]:
    return {action.dest: action.help or "" for action in commands._choices_actions}


def _command(
    parser: argparse.ArgumentParser, short: str, *, level: int
) -> Iterator[str]:
    yield f"{'#' * level} {parser.prog}\n"
    yield f"{_sentence(inspect.cleandoc(parser.description or short))}\n"
    nested = _nested(parser)
    if not nested:
        yield f"```text\n{_usage(parser)}\n```\n"
    for group in parser._action_groups:
        options = [
            action
            for action in group._group_actions
            if action.help != argparse.SUPPRESS
            and not isinstance(
                action, argparse._HelpAction | argparse._SubParsersAction
            )
        ]
        if options and group.title not in ("options", "positional arguments"):
            title = _sentence(group.title or "").rstrip(".")
            yield f"**{title}.** {_sentence(group.description or '')}\n"
        if options:
            yield '<div class="stacked" markdown>\n'
            yield "| option | meaning | default |\n|---|---|---|"
            for action in options:
                cells = _name(parser, action), _meaning(parser, action), _given(action)
                yield f"| {' | '.join(cells)} |"
            yield "\n</div>\n"
    for commands in nested:
        for name, child in commands.choices.items():
            yield from _command(child, _helps(commands)[name], level=level + 1)


def _usage(parser: argparse.ArgumentParser) -> str:
    """What must be given; the table has the rest."""
    words = [parser.prog]
    optional = False
    for action in parser._actions:
        if not action.option_strings:
            words.append(str(action.metavar or action.dest).upper())
        elif action.required:
            words.append(f"{action.option_strings[0]} {_value(action)}")
        elif not isinstance(action, argparse._HelpAction):
            optional = True
    return " ".join(words + ["[options]"] * optional)


def _value(action: argparse.Action) -> str:
    if action.nargs == 0:
        return ""
    value = str(action.metavar or ("VALUE" if action.choices else action.dest.upper()))
    return f"{value} ..." if action.nargs in ("+", "*") else value


def _name(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    spelled = ", ".join(action.option_strings) or str(action.metavar or action.dest)
    if action.option_strings:
        spelled = f"{spelled} {_value(action)}".strip()
    first = (action.option_strings or [action.dest])[0].lstrip("-")
    identifier = f"{parser.prog} {first}".replace(" ", "-")
    return f'<code id="{identifier}">{html.escape(spelled)}</code>'


def _meaning(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    # The base class: the parser's own formatter may append the default.
    formatter = argparse.HelpFormatter(parser.prog)
    text = formatter._expand_help(action) if action.help else ""
    if _given(action):
        text = re.sub(r" \((the )?default[^()]*\)$", "", text)
    parts = [_sentence(text)]
    if action.choices:
        values = ", ".join(f"`{choice}`" for choice in action.choices)
        parts.append(f"One of {values}.")
    if isinstance(action, argparse._AppendAction):
        parts.append("May be repeated.")
    return " ".join(part for part in parts if part).replace("|", "\\|")


def _given(action: argparse.Action) -> str:
    """The default, as a table shows it."""
    if action.required or not action.option_strings and action.default is None:
        return "*required*"
    value = cli.default_of(action)
    return "" if value is None else f"`{value}`"


def _sentence(text: str) -> str:
    """`text` as markdown, with a capital letter and a full stop."""
    first, space, rest = text.strip().partition(" ")
    if first.isalpha() and first.islower():
        first = first.capitalize()
    text = _escaped(first + space + rest)
    return text if not text or text[-1] in ".:!?" else f"{text}."


def _escaped(text: str) -> str:
    """Text in which "<unk>" is no tag; markdown escapes code by itself."""
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [html.escape(part, quote=False) for part in parts[::2]]
    return "".join(parts)
