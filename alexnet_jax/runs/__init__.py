"""What keeps a run safe and visible."""
