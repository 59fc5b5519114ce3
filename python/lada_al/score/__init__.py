"""Scoring of pools of any size."""
