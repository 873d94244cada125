"""Networks: weights, the engine that runs them, and their states. Opens no database."""

import os

# Read by OpenMP when torch is first imported. Its threads spin for work after each product, by default for so long that
# whoever needs their cores next waits for them: a step of decoding, or the next reply's sampling.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
