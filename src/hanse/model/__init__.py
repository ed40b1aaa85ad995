"""The nouns of a fleet, how a file becomes them, and what makes a fleet wrong."""
