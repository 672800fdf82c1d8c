"""The command line: sweeps through Hydra, and the commands around them."""
