"""`openenv-async serve` binds, serves, refuses and ends as it says."""
