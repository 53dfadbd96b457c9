"""What all passes do to models: read, write, walk, count, have ORT write its graph, ask whether a result loads."""
