"""`python -m miniray`: the same as the command `miniray`."""

from miniray.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
