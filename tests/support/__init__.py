"""What several test files share: servers to start, faults to inject, texts to compare."""
