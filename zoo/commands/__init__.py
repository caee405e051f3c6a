"""The `keras-meta` commands, one a module.

A module has `HELP`, one line; `DESCRIPTION`, if `--help` says more; `add(parser)`,
which adds its arguments; and `run(arguments, output)`, which gives the exit code, or
None for 0. No module imports TensorFlow before it runs.
"""
