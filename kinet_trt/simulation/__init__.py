"""Draw synthetic fields with known nuclei."""
