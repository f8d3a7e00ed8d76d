"""Learning and measuring solvers from a config."""
