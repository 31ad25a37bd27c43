"""Runs of many models and their reports."""
