"""Images that the commands draw: Figures 3 and 4."""
