"""Names of other programs, for code that changes nothing but its imports."""
