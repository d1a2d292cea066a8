"""Let a scheduler start workers as the queue needs them: profiles, pilots, the dispatcher."""
