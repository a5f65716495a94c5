"""Training with the penalty, and with strategies that remove blocks meanwhile."""
