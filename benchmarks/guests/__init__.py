"""Contenders that run in a process of their own, by an interpreter that has them."""
