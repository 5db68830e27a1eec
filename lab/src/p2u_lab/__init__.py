"""The laboratory: what a model can do after so many bytes and seconds, compared with rivals.

A distribution of its own, ``p2u-lab``, which uses public names of P2U only. Its command is
``p2u eval``.
"""

import os

# Every measurement is that of a first time: no process finds what an earlier one fetched.
os.environ.setdefault("P2U_CACHE_SIZE", "0")
