"""From source to a proven wheel: source, flags, toolchain, container, compile, diagnose, audit, package."""
