"""The guards hold for every test, those of the environments too."""

pytest_plugins = ["tests.guards", "tests.engine", "pytester"]
