"""What a tokenizer is worth: metrics, timing and the machine they were measured on."""
