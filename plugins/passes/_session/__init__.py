"""The search of tune-session: the space of settings, how they are timed, and which of them wins."""
