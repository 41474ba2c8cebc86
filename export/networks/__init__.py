"""KiNet in its three forms, and the networks that its paper compares it with."""
