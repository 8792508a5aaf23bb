"""The code inside a pulled model: copied there as files, it needs nothing of this package."""
