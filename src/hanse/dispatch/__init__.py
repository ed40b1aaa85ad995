"""The decision core: law, table, load, choice, belief. No socket, no clock, no file, no randomness."""
