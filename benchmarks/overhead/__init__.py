"""What a sweep costs besides its training steps."""
