"""Speed of the ops, on the CPU and on a GPU: ``python -m bench --help``."""
