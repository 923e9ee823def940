"""What the package costs, each figure beside the bare thing in the same run: ``python -m benchmarks``."""
