"""The user's words. `miniray/__init__.py` exports them."""

from miniray._api import actor, object_ref, objects, remote, session  # noqa: F401
