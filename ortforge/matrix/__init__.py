"""matrix.toml to a typed, validated Matrix."""
