"""Better codes for the same bits."""
