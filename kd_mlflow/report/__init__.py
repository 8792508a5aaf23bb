"""What people read of a run: its description, the model card, the report page."""
