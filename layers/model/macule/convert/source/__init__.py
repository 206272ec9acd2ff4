"""A user's model file to one model with known inputs, outputs and labels."""
