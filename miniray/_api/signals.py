"""What the runtime knows of signals, for whoever keeps tables of his own above it, as `miniray.pool` does."""

from miniray._runtime.signals import UnbrokenLock
from miniray._serialization.strikes import raised_by_handler

__all__ = ["UnbrokenLock", "raised_by_handler"]
