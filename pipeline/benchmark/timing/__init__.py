"""The protocol by which everything is timed."""
