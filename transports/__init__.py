"""Implementations of `miniray.transport.Transport`, installed as `miniray_transports`; get one by `transport.load`."""
