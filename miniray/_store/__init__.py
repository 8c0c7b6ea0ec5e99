"""The object store of one host: bytes in one shared-memory file (DESIGN.md section 5).

    arena.py    the file itself: create, attach, reserve, punch; status words; private views; how big it may be
    layout.py   an extent: its ledger, and which of its ranges are free
    client.py   one process's places: create, write, view, seal, free, with no round trip

Which process has which extent is decided elsewhere, by numbers alone: `core/node/allocator.py`.
"""
