"""Values, functions and exceptions to bytes and back. The doors are `values`, `exceptions` and `pickles`."""
