"""What better codes cost."""
