"""The worker's side of a pool, and what both sides agree on: little code, quickly imported (5 ms where the pool's own
side takes 80), since each worker that was started before anybody had loaded the pool imports it once more.
"""
