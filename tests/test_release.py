"""One version, said alike everywhere, and an import that costs next to nothing."""

import pathlib
import re
import subprocess
import sys

import yaml

import specialize

ROOT = pathlib.Path(__file__).parent.parent


def test_the_changelog_and_the_citation_name_this_version_and_one_date():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(
        r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", changelog, re.M
    )
    assert len(sections) == len(re.findall(r"^## ", changelog, re.M))
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    newest = (str(citation["version"]), str(citation["date-released"]))
    assert sections[0] == newest
    assert newest[0] == specialize.__version__


def test_the_message_that_the_page_of_formats_shows_names_this_version():
    page = (ROOT / "docs/formats.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"specialize (\d+\.\d+\.\d+) reads version", page)
    assert shown == specialize.__version__


def test_the_changelog_has_one_list_per_section():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert not re.search(r"^(?:- |  ).*\n\n- ", changelog, re.M)


def test_the_build_reads_the_version_of_the_package():
    done = subprocess.run(
        [sys.executable, "setup.py", "--version"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == specialize.__version__


def test_the_package_is_imported_within_50_milliseconds_and_without_metadata(tmp_path):
    (tmp_path / "specialize").symlink_to(ROOT / "specialize")
    code = (
        "import sys, time; start = time.process_time(); import specialize; "
        "print(time.process_time() - start, specialize.__version__, "
        "'importlib.metadata' in sys.modules)"
    )
    # -S -I: no site-packages, so nothing that an installation wrote.
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); " + code
    done = subprocess.run(
        [sys.executable, "-S", "-I", "-c", code],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, version, metadata = done.stdout.split()
    assert float(seconds) < 0.05
    assert (version, metadata) == (specialize.__version__, "False")


def test_every_form_for_issues_asks_for_something():
    folder = ROOT / ".github" / "ISSUE_TEMPLATE"
    forms = {path.stem: path for path in folder.glob("*.yml") if path.stem != "config"}
    assert set(forms) == {"bug_report", "feature_request", "question"}
    for path in forms.values():
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert {"name", "description", "body"} <= set(form)
        asked = [item["id"] for item in form["body"]]
        assert len(asked) == len(set(asked))
        assert any(item.get("validations", {}).get("required") for item in form["body"])
    bug = forms["bug_report"].read_text(encoding="utf-8")
    for needed in ("command", "message", "version", "device"):
        assert f"id: {needed}" in bug


def test_hosted_ci_runs_our_script_on_the_versions_that_setup_py_names():
    text = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    job = yaml.safe_load(text)["jobs"]["ci"]
    named = re.findall(r"Python :: (3\.\d+)", (ROOT / "setup.py").read_text())
    assert job["strategy"]["matrix"]["python"] == named
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    actions = [
        step["uses"].partition("@")[0] for step in job["steps"] if "uses" in step
    ]
    assert actions == ["actions/checkout", "actions/setup-python"]
