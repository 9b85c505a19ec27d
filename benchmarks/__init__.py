"""What the project costs: `python -m benchmarks` prints it for this machine."""
