"""Learning a solver: losses, Gauss-Newton, Levenberg-Marquardt, starts, recipes, and `fit`."""
