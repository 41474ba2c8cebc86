"""Count the newest frame of a camera."""
