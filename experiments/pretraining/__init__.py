"""Training networks from scratch."""
