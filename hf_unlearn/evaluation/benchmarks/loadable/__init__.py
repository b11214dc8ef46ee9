"""A file for each metric, for ``evaluate.load``, which takes the path of a file with one metric in it."""
