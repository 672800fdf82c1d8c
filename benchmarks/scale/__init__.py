"""What the driver costs with many slots and many trials, and what a cluster costs."""
