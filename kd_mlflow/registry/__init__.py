"""Registered versions, moves of ``production`` among them, and their history."""
