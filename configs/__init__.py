"""One file per experiment: `get_config()` returns a frozen dataclass; the docstring says command, time and result."""
