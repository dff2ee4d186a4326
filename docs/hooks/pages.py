"""What mkdocs does beside rendering: generated pages, links out of docs/, formulas.

Nothing generated is stored in the repository. A file of the repository that a page
links to becomes a page of the site, so that no link leaves the site.
"""

import logging
import pathlib
import posixpath
import re
from collections.abc import Iterator
from typing import Any

import commands
import door
import gin_files
import latex2mathml.converter
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = pathlib.Path(__file__).parents[2]
# Pages of the project that stay where readers of the repository look for them.
PROJECT = {
    "benchmarks/RESULTS.md": "project/results.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
}
LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")
# The words after a fence's language are for tests/test_documented_commands.py.
FENCE = re.compile(r"^( *```\w+) .*$", re.MULTILINE)
FORMULA = re.compile(
    r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL
)
LANGUAGES = {".py": "python", ".gin": "python", ".toml": "toml", ".yml": "yaml"}

# What a browser would fetch from elsewhere when it shows a page.
FETCHED = re.compile(
    r'<(?:script|img|iframe|link)\b[^>]*(?:src|href)="(?:https?:)?//[^>]*'
)

log = logging.getLogger("mkdocs.hooks.pages")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts one page per command into the navigation, where it says COMMANDS."""
    entries = [f"reference/commands/{name}.md" for name in commands.pages()]

    def filled(item: Any) -> Any:
        if isinstance(item, dict):
            return {title: filled(value) for title, value in item.items()}
        if isinstance(item, list):
            return [filled(value) for value in item]
        return entries if item == "COMMANDS" else item

    config.nav = filled(config.nav)
    # Its links begin at the root of a server, so in a folder of one they lead nowhere.
    config.theme.static_templates.discard("404.html")
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Adds the generated pages, the project's own, and every file that is linked to."""
    texts = {
        "reference/macros.md": gin_files.macros(),
        "reference/recipes.md": gin_files.recipes(),
        "reference/python.md": door.page(),
    }
    for name, text in commands.pages().items():
        texts[f"reference/commands/{name}.md"] = text
    for path, uri in PROJECT.items():
        texts[uri] = (ROOT / path).read_text(encoding="utf-8")
    written = {
        file.src_uri: pathlib.Path(file.abs_src_path).read_text(encoding="utf-8")
        for file in files
        if file.src_uri.endswith(".md")
    }
    for uri, text in (texts | written).items():
        for path in _linked_files(uri, text):
            if _uri_of(path).startswith("source/"):
                texts[_uri_of(path)] = _source_page(path)
    for uri, text in texts.items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(
    markdown: str, *, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Links to files of the repository become links to their pages."""
    uri = page.file.src_uri
    if page.parent is None:  # a tab of its own: nothing beside it to navigate to
        page.meta.setdefault("hide", ["navigation"])

    def rewritten(match: re.Match[str]) -> str:
        path = _repository_path(uri, match[1])
        if path.startswith("docs/") and uri not in PROJECT.values():
            return match[0]
        if not (ROOT / path).is_file():
            log.warning("%s links to '%s', which is no file.", uri, match[1])
            return match[0]
        found = _uri_of(path)
        target = posixpath.relpath(found, posixpath.dirname(uri) or ".")
        # The page of a file shows its text, in which a heading is no anchor.
        fragment = "" if found.startswith("source/") else match[2] or ""
        return f"]({target}{fragment})"

    return FENCE.sub(r"\1", LINK.sub(rewritten, markdown))


def on_page_content(
    html: str, *, page: Page, config: MkDocsConfig, files: Files
) -> str:
    """Writes formulas as MathML, which browsers show without a script."""

    def formula(match: re.Match[str]) -> str:
        display = "block" if match[1] == "div" else "inline"
        tex = match[3].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">")
        mathml = latex2mathml.converter.convert(tex.strip(), display=display)
        return f'<div class="formula">{mathml}</div>' if match[1] == "div" else mathml

    return FORMULA.sub(formula, html)


def on_post_page(output: str, *, page: Page, config: MkDocsConfig) -> str:
    """Refuses pages that are not complete without a network."""
    for element in FETCHED.findall(output):
        if 'rel="canonical"' not in element:
            log.warning("%s fetches from elsewhere: %s>", page.file.src_uri, element)
    return output


def _repository_path(uri: str, target: str) -> str:
    """The path in the repository that a link on a page names."""
    home = {page: path for path, page in PROJECT.items()}.get(uri, f"docs/{uri}")
    return posixpath.normpath(posixpath.join(posixpath.dirname(home), target))


def _uri_of(path: str) -> str:
    """The page of the site that shows a file of the repository."""
    if path in PROJECT:
        return PROJECT[path]
    return (
        path.removeprefix("docs/") if path.startswith("docs/") else f"source/{path}.md"
    )


def _linked_files(uri: str, text: str) -> Iterator[str]:
    for match in LINK.finditer(text):
        path = _repository_path(uri, match[1])
        if (ROOT / path).is_file():
            yield path


def _source_page(path: str) -> str:
    text = (ROOT / path).read_text(encoding="utf-8")
    language = LANGUAGES.get(pathlib.Path(path).suffix, "text")
    return f"# `{path}`\n\n````{language}\n{text}````\n"
