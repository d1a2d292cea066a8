"""Take runs from the queue and execute each in a process of its own."""
