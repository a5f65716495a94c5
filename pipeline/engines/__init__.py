"""Engines in each precision by each backend, and the proof that they are the network."""
