"""The environment itself and its application; needs Gymnasium."""
