"""The Python side of a sandbox: codec, functions, `plpy` and the loop that serves calls."""
