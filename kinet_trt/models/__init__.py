"""The model card, and the model that comes with the package."""
