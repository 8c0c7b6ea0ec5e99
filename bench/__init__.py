"""Measurements beside the peers and the bare limits: `python -m bench` prints one table (see README.md)."""
