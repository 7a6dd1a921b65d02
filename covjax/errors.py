"""The one exception that stands for a mistake in the user's input rather than in the program."""


class InputError(ValueError):
    """Bad input: the message is one line naming the file, row, field or argument, the value seen and what is allowed.

    Commands print it without a traceback and exit with status 2 (`covjax.cli.exit_on_input_error`).
    """
