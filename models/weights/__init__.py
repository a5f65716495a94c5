"""Weights: published ones, loaded strictly, saved with their description."""
