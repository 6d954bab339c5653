"""Apps that show how the library is used; each is run by a test."""
