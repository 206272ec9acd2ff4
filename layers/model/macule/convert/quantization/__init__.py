"""A float LiteRT file to int8 or fp16, and whether the result may replace the original."""
