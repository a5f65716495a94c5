"""Every timm family through the whole path: docs/zoo.md."""
