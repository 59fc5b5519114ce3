"""What only a GPU can tell: `check.sh` verifies and measures, `status.py` writes docs/gpu-status.md from it."""
