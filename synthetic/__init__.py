"""The embedded database: a procedural head, painted, fitted with glasses, filmed. Nobody real is in it."""
