"""The given model: the velocity field, its conditions and guidance, closed forms, and the devices it lies on."""
