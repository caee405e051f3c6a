"""The `keras-meta` commands, one in each module.

A module has `HELP`, one line; optionally `DESCRIPTION`, the text of `--help`;
`add(parser)`, which adds its arguments; and `run(arguments, output)`, which returns the
exit code, or None for 0. No module imports TensorFlow before it runs.
"""
