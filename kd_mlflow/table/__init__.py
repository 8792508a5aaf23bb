"""A table: read from a file or a frame, typed, hashed, split and encoded."""
