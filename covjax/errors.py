"""The exception for mistakes in the user's input, and how its messages show the values."""


class InputError(ValueError):
    """Bad input: the message is one line naming the file, row, field or argument, the value seen and what is allowed.

    Commands print it without a traceback and exit with status 2 (`covjax.jobs.cli.exit_on_input_error`).
    """


class DtypeError(InputError, TypeError):
    """Bad input: numbers of a type that is not allowed. It is also a TypeError, as NumPy and JAX raise."""


def shown(value: object, most: int = 100) -> str:
    """Show a value in a message: its `repr` on one line, shortened in the middle to about `most` characters.

    Line ends and control characters are escaped. For a longer value the beginning, the end and the full length (in
    characters) are shown.
    """
    # A slice first: the repr of a chromosome would be made whole only to be cut.
    text = repr(value[: 2 * most] if isinstance(value, str | bytes) and len(value) > 2 * most else value)
    whole = len(value) if isinstance(value, str | bytes) else len(text)
    if len(text) <= most and whole <= 2 * most:
        return text
    end = repr(value[-most // 4 :])[-most // 4 :] if isinstance(value, str | bytes) else text[-most // 4 :]
    return f"{text[: most - most // 4 - 5]} ... {end} ({whole:,} characters)"
