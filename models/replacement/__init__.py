"""What replaces a removed block."""
