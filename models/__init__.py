"""Networks: weights, the engine that runs them, and their states. Opens no database."""
