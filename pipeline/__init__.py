"""How a network is made shallow: one module per step, siblings that talk through values."""
