"""What run.py and verify.py share. Nothing here needs more than NumPy, Pillow and one runtime."""
