"""The built-in data sets, from a clone; see covjax.sources."""
