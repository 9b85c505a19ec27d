"""Annotation sheets → clips → face crops, and what training draws from them (SPEC sections 1, 2, 7)."""
