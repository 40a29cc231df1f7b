"""Encoders in float16 and bfloat16: converted but for what has to stay float32, and what that loses, in two opinions."""
