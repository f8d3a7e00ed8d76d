"""`python -m bespoke_jax.cli`: the console command where its script is not on the path."""

from bespoke_jax.cli import main

main()
