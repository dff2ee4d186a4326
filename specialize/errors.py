"""The one exception that means: the user's input is at fault, not the program."""


class InputError(ValueError):
    """A bad file, value or combination that the user can mend.

    The message says what was wrong, the values, where, and what to do. The command
    line prints it without a traceback and exits with status 2; everything else that
    is raised is a defect and keeps its traceback.
    """
