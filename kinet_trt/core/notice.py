"""The notice beside every result."""

NOTICE = "For Research Use Only. Not for use in diagnostic procedures."
