"""What `python -m pipeline doctor` looks at; one module per area."""
