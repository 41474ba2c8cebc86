"""A session at the microscope: its store, the registration of its fields, and what they sum up to."""
