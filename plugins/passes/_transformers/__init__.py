"""Around ORT's transformer optimizer: attention found by itself, fusions counted, what it refuses and why."""
