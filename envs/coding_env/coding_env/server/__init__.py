"""The environment itself and its application."""
