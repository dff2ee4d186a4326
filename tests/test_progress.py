"""Progress off a terminal is lines of text that a person reads in a log."""

from specialize import progress


def test_items_are_counted_in_lines_of_text_off_a_terminal(capfd):
    items = progress.track(range(3), "align completions", log_every_s=0.0)
    assert list(items) == [0, 1, 2]
    lines = capfd.readouterr().err.splitlines()
    assert [line.rpartition(" in ")[0] for line in lines] == [
        "align completions: 1 of 3",
        "align completions: 2 of 3",
        "align completions: 3 of 3",
    ]
    assert all(line.endswith(" s") for line in lines)


def test_a_log_shows_work_after_a_second_and_then_seldom(capfd, monkeypatch):
    clock = iter([0.0, 0.4, 1.1, 1.5, 20.0, 31.5, 32.0, 32.0, 32.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    list(progress.track(range(6), "prepare"))
    assert capfd.readouterr().err.splitlines() == [
        "prepare: 2 of 6 in 1.1 s",
        "prepare: 5 of 6 in 31.5 s",
        "prepare: 6 of 6 in 32.0 s",
    ]


def test_a_line_is_never_folded_or_read_as_markup(capfd):
    progress.say("[red]" + "long " * 60)
    assert capfd.readouterr().err == "[red]" + "long " * 60 + "\n"
