"""Encoders in float16 and bfloat16: which nodes stay float32, and the conversion of the others."""
