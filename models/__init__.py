"""What the network is: creation, block discovery and surgery. Torch and timm only."""
