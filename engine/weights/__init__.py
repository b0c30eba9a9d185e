"""Weights as this machine multiplies them fastest."""
