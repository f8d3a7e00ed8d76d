"""The given model: its velocity field, predictions, conditions and guidance, flows in closed form, and placement on devices."""
