"""Sweeps from Python: what `import mnist_sweep` offers to scripts and notebooks."""
