"""What comes after a sweep: its runs as frames, pictures and exported models."""
